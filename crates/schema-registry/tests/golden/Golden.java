// Makes canonical.json and compatibility.json from schemas.json with Java's Avro classes:
//   java -cp '<folder with avro-1.11.4.jar and its dependencies>/*' Golden.java schemas.json .
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.File;
import java.util.ArrayList;
import java.util.List;
import org.apache.avro.Schema;
import org.apache.avro.SchemaCompatibility;

public class Golden {
    public static void main(String[] args) throws Exception {
        ObjectMapper mapper = new ObjectMapper();
        JsonNode input = mapper.readTree(new File(args[0]));
        ArrayNode canonical = mapper.createArrayNode();
        List<Schema> parsed = new ArrayList<>();
        for (JsonNode node : input) {
            String text = node.isTextual() ? node.textValue() : node.toString();
            ObjectNode entry = canonical.addObject().put("text", text);
            try {
                Schema schema = new Schema.Parser().setValidateDefaults(false).parse(text);
                entry.put("canonical", schema.toString());
                parsed.add(schema);
            } catch (RuntimeException refused) {
                entry.putNull("canonical");
            }
        }
        // One line for each reader: the writers it can read, as 1, and those it can't, as 0.
        ObjectNode compatibility = mapper.createObjectNode();
        ArrayNode schemas = compatibility.putArray("schemas");
        ArrayNode reads = compatibility.putArray("reads");
        for (Schema reader : parsed) {
            schemas.add(reader.toString());
            StringBuilder line = new StringBuilder();
            for (Schema writer : parsed) {
                boolean can = SchemaCompatibility.checkReaderWriterCompatibility(reader, writer).getType()
                    == SchemaCompatibility.SchemaCompatibilityType.COMPATIBLE;
                line.append(can ? '1' : '0');
            }
            reads.add(line.toString());
        }
        mapper.enable(SerializationFeature.INDENT_OUTPUT);
        mapper.writeValue(new File(args[1], "canonical.json"), canonical);
        mapper.writeValue(new File(args[1], "compatibility.json"), compatibility);
    }
}
