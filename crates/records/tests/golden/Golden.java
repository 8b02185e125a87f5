// Writes golden.txt from cases.txt with Java's Avro. With the jar of org.apache.avro:avro and its dependencies in LIB
// (mvn dependency:copy-dependencies), in this folder:
//
//     java -cp 'LIB/*' Golden.java
//
// A line of cases.txt is `name schema json` or `name schema<writer json`: a datum in Avro's JSON encoding, and the schema
// of schemas/avro it is written with; with `<writer` it is written with that schema of this folder instead and then read
// as `schema`. A line of golden.txt is, between tabs: name, the datum as written in hex, the datum as Java writes it once
// read as `schema` in hex, the latter's JSON by Java.

import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;

public class Golden {
    public static void main(String[] args) throws Exception {
        List<String> golden = new ArrayList<>();
        for (String line : Files.readAllLines(Path.of("cases.txt"))) {
            String[] part = line.split(" ", 3);
            String[] names = part[1].split("<");
            Schema schema = schema("../../../../schemas/avro/", names[0]);
            Schema writer = names.length > 1 ? schema("", names[1]) : schema;

            Object datum = new GenericDatumReader<>(writer)
                .read(null, DecoderFactory.get().jsonDecoder(writer, part[2]));
            byte[] written = binary(writer, datum);
            Object read = new GenericDatumReader<>(writer, schema)
                .read(null, DecoderFactory.get().binaryDecoder(written, null));
            HexFormat hex = HexFormat.of();
            golden.add(String.join("\t", part[0], hex.formatHex(written), hex.formatHex(binary(schema, read)), json(schema, read)));
        }
        Files.write(Path.of("golden.txt"), golden);
    }

    static Schema schema(String folder, String name) throws Exception {
        return new Schema.Parser().parse(Files.readString(Path.of(folder + name + ".avsc")));
    }

    static byte[] binary(Schema schema, Object datum) throws Exception {
        var out = new ByteArrayOutputStream();
        var encoder = EncoderFactory.get().binaryEncoder(out, null);
        new GenericDatumWriter<>(schema).write(datum, encoder);
        encoder.flush();
        return out.toByteArray();
    }

    static String json(Schema schema, Object datum) throws Exception {
        var out = new ByteArrayOutputStream();
        var encoder = EncoderFactory.get().jsonEncoder(schema, out);
        new GenericDatumWriter<>(schema).write(datum, encoder);
        encoder.flush();
        return out.toString(StandardCharsets.UTF_8);
    }
}
