import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

import org.eclipse.leshan.client.LeshanClient;
import org.eclipse.leshan.client.LeshanClientBuilder;
import org.eclipse.leshan.client.engine.DefaultRegistrationEngineFactory;
import org.eclipse.leshan.client.object.Security;
import org.eclipse.leshan.client.object.Server;
import org.eclipse.leshan.client.observer.LwM2mClientObserverAdapter;
import org.eclipse.leshan.client.resource.BaseInstanceEnabler;
import org.eclipse.leshan.client.resource.ObjectsInitializer;
import org.eclipse.leshan.client.send.ManualDataSender;
import org.eclipse.leshan.client.servers.LwM2mServer;
import org.eclipse.leshan.core.ResponseCode;
import org.eclipse.leshan.core.model.ObjectLoader;
import org.eclipse.leshan.core.model.ObjectModel;
import org.eclipse.leshan.core.model.ResourceModel;
import org.eclipse.leshan.core.model.ResourceModel.Operations;
import org.eclipse.leshan.core.model.ResourceModel.Type;
import org.eclipse.leshan.core.model.StaticModel;
import org.eclipse.leshan.core.node.LwM2mPath;
import org.eclipse.leshan.core.node.LwM2mResource;
import org.eclipse.leshan.core.request.ContentFormat;
import org.eclipse.leshan.core.request.DeregisterRequest;
import org.eclipse.leshan.core.request.RegisterRequest;
import org.eclipse.leshan.core.request.UpdateRequest;
import org.eclipse.leshan.core.request.argument.Arguments;
import org.eclipse.leshan.core.response.ExecuteResponse;
import org.eclipse.leshan.core.response.ReadResponse;
import org.eclipse.leshan.core.response.SendResponse;
import org.eclipse.leshan.core.response.WriteResponse;
import org.eclipse.leshan.core.util.Hex;
import org.eclipse.leshan.transport.californium.client.endpoint.CaliforniumClientEndpointsProvider;
import org.eclipse.leshan.transport.californium.client.endpoint.coap.CoapClientProtocolProvider;
import org.eclipse.leshan.transport.californium.client.endpoint.coaps.CoapsClientProtocolProvider;

/**
 * A device for tests: {@code TestClient <server uri> <endpoint> <lifetime, s> [<name>=<value> …]}. It prints a line for
 * each event, and takes the commands {@code set <object>/<instance>/<resource> <number>}, {@code collect <path> …},
 * {@code send <content format> [<path> …]}, {@code update} and {@code deregister}.
 *
 * <p>Settings: {@code psk=<identity>:<key, hex>}; {@code cert}, {@code key} and {@code server}, files in DER with the
 * device's certificate, its PKCS#8 key and the server's certificate; {@code queue=true}.
 */
public final class TestClient {
    private static final int SERVER_ID = 123;
    private static final int DEVICE = 3;
    private static final int TEMPERATURE = 3303;

    public static void main(String[] args) throws Exception {
        String uri = args[0];
        List<ObjectModel> models = new ArrayList<>(ObjectLoader.loadDefault());
        models.add(temperatureModel());

        Map<String, String> settings = new TreeMap<>();
        for (int i = 3; i < args.length; i++) {
            String[] words = args[i].split("=", 2);
            settings.put(words[0], words[1]);
        }

        Temperature[] sensors = {new Temperature(0), new Temperature(1)};
        ObjectsInitializer objects = new ObjectsInitializer(new StaticModel(models));
        objects.setInstancesForObject(0, security(uri, settings));
        objects.setInstancesForObject(1, new Server(SERVER_ID, Long.parseLong(args[2])));
        objects.setInstancesForObject(DEVICE, new Device());
        objects.setInstancesForObject(TEMPERATURE, sensors);

        // A server that is killed and started again is found within a second, not after the default ten minutes.
        DefaultRegistrationEngineFactory engine = new DefaultRegistrationEngineFactory();
        engine.setRetryWaitingTimeInMs(1_000);
        engine.setRequestTimeoutInMs(10_000);
        engine.setQueueMode(settings.containsKey("queue"));

        LeshanClientBuilder builder = new LeshanClientBuilder(args[1]);
        builder.setObjects(objects.createAll());
        builder.setRegistrationEngineFactory(engine);
        builder.setEndpointsProviders(
                new CaliforniumClientEndpointsProvider.Builder(
                        new CoapClientProtocolProvider(), new CoapsClientProtocolProvider()).build());
        ManualDataSender collected = new ManualDataSender();
        builder.setDataSenders(collected);
        LeshanClient client = builder.build();
        client.addObserver(new Events());
        client.start();

        ScheduledExecutorService clock = Executors.newSingleThreadScheduledExecutor();
        clock.scheduleAtFixedRate(() -> {
            for (Temperature sensor : sensors) {
                sensor.tick();
            }
        }, 1, 1, TimeUnit.SECONDS);
        say("started");

        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            String[] words = line.trim().split("[ /]+");
            switch (words[0]) {
                case "set":
                    // On the clock's thread, so that a reading has one writer.
                    int instance = Integer.parseInt(words[2]);
                    double value = Double.parseDouble(words[4]);
                    clock.execute(() -> sensors[instance].fix(value));
                    break;
                case "collect":
                    collected.collectData(paths(line).stream().map(LwM2mPath::new).collect(Collectors.toList()));
                    say("collected");
                    break;
                case "send":
                    send(client, collected, ContentFormat.fromName(words[1]), paths(line));
                    break;
                case "update":
                    client.triggerRegistrationUpdate();
                    break;
                case "deregister":
                    client.stop(true);
                    break;
                default:
                    say("unknown command " + line);
            }
        }
        client.destroy(true);
        clock.shutdownNow();
    }

    private static Security security(String uri, Map<String, String> settings) throws IOException {
        if (settings.containsKey("psk")) {
            String[] words = settings.get("psk").split(":");
            byte[] identity = words[0].getBytes(StandardCharsets.UTF_8);
            return Security.psk(uri, SERVER_ID, identity, Hex.decodeHex(words[1].toCharArray()));
        }
        if (settings.containsKey("cert")) {
            return Security.x509(uri, SERVER_ID, Files.readAllBytes(Path.of(settings.get("cert"))),
                    Files.readAllBytes(Path.of(settings.get("key"))),
                    Files.readAllBytes(Path.of(settings.get("server"))));
        }
        return Security.noSec(uri, SERVER_ID);
    }

    private static List<String> paths(String line) {
        return Arrays.stream(line.split(" ")).filter(word -> word.startsWith("/")).collect(Collectors.toList());
    }

    /** Sends what was collected with its times where no path is given, else what the paths have now. */
    private static void send(LeshanClient client, ManualDataSender collected, ContentFormat format, List<String> paths)
            throws Exception {
        LwM2mServer server = client.getRegisteredServers().values().iterator().next();
        if (paths.isEmpty()) {
            collected.sendCollectedData(server, format, 10_000, false);
            say("sent");
            return;
        }
        SendResponse response = client.getSendService().sendData(server, format, paths, 10_000);
        say(response == null ? "send failed by time-out" : "sent " + response.getCode());
    }

    private static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    /** The facts of OMA's object 3303, version 1.1, as far as this device has them. */
    private static ObjectModel temperatureModel() {
        return new ObjectModel(TEMPERATURE, "Temperature", "", "1.1", true, false,
                resource(5700, "Sensor Value", Operations.R, true, Type.FLOAT),
                resource(5601, "Min Measured Value", Operations.R, false, Type.FLOAT),
                resource(5602, "Max Measured Value", Operations.R, false, Type.FLOAT),
                resource(5605, "Reset Min and Max Measured Values", Operations.E, false, Type.NONE),
                resource(5701, "Sensor Units", Operations.R, false, Type.STRING),
                resource(5750, "Application Type", Operations.RW, false, Type.STRING));
    }

    private static ResourceModel resource(int id, String name, Operations operations, boolean mandatory, Type type) {
        return new ResourceModel(id, name, operations, false, mandatory, type, "", "", "");
    }

    /** Instance 0 goes from 20.0 to 24.9, instance 1 from 30.0 to 34.9, in steps of 0.1 a second. */
    public static final class Temperature extends BaseInstanceEnabler {
        private volatile double value;
        private volatile double min;
        private volatile double max;
        private volatile boolean fixed;
        private volatile String application = "test";
        private int ticks;

        /** For an instance that a server creates; it stays at 20.0. */
        public Temperature() {
            this(0);
        }

        Temperature(int instance) {
            super(instance);
            value = 20 + 10 * instance;
            min = value;
            max = value;
        }

        void tick() {
            if (!fixed) {
                ticks = (ticks + 1) % 50;
                show((200 + 100 * getId() + ticks) / 10.0);
            }
        }

        void fix(double wanted) {
            fixed = true;
            show(wanted);
        }

        private void show(double reading) {
            value = reading;
            say("value /3303/" + getId() + "/5700 " + reading);
            fireResourceChange(5700);
            if (reading < min) {
                min = reading;
                fireResourceChange(5601);
            }
            if (reading > max) {
                max = reading;
                fireResourceChange(5602);
            }
        }

        @Override
        public List<Integer> getAvailableResourceIds(ObjectModel model) {
            return List.of(5601, 5602, 5605, 5700, 5701, 5750);
        }

        @Override
        public ReadResponse read(LwM2mServer server, int resource) {
            switch (resource) {
                case 5601:
                    return ReadResponse.success(resource, min);
                case 5602:
                    return ReadResponse.success(resource, max);
                case 5700:
                    return ReadResponse.success(resource, value);
                case 5701:
                    return ReadResponse.success(resource, "Cel");
                case 5750:
                    return ReadResponse.success(resource, application);
                default:
                    return super.read(server, resource);
            }
        }

        @Override
        public WriteResponse write(LwM2mServer server, boolean replace, int resource, LwM2mResource written) {
            if (resource != 5750) {
                return super.write(server, replace, resource, written);
            }
            application = (String) written.getValue();
            say("written /3303/" + getId() + "/5750 " + application);
            fireResourceChange(resource);
            return WriteResponse.success();
        }

        @Override
        public ExecuteResponse execute(LwM2mServer server, int resource, Arguments arguments) {
            if (resource != 5605) {
                return super.execute(server, resource, arguments);
            }
            min = value;
            max = value;
            say("executed /3303/" + getId() + "/5605 " + arguments.serialize());
            return ExecuteResponse.success();
        }
    }

    public static final class Device extends BaseInstanceEnabler {
        private volatile String offset = "+02:00";
        private volatile String zone = "Europe/Athens";

        @Override
        public List<Integer> getAvailableResourceIds(ObjectModel model) {
            return List.of(0, 1, 2, 3, 4, 6, 7, 9, 11, 13, 14, 15, 16);
        }

        @Override
        public ReadResponse read(LwM2mServer server, int resource) {
            switch (resource) {
                case 0:
                    return ReadResponse.success(resource, "zeelos testkit");
                case 1:
                    return ReadResponse.success(resource, "Leshan client");
                case 2:
                    return ReadResponse.success(resource, "TK-0001");
                case 3:
                    return ReadResponse.success(resource, "1.0");
                case 6:
                    return ReadResponse.success(resource, integers(1, 5), Type.INTEGER);
                case 7:
                    return ReadResponse.success(resource, integers(3_800, 5_000), Type.INTEGER);
                case 9:
                    return ReadResponse.success(resource, 95L);
                case 11:
                    return ReadResponse.success(resource, integers(0), Type.INTEGER);
                case 13:
                    return ReadResponse.success(resource, new Date());
                case 14:
                    return ReadResponse.success(resource, offset);
                case 15:
                    return ReadResponse.success(resource, zone);
                case 16:
                    return ReadResponse.success(resource, "U");
                default:
                    return super.read(server, resource);
            }
        }

        @Override
        public WriteResponse write(LwM2mServer server, boolean replace, int resource, LwM2mResource written) {
            switch (resource) {
                case 14:
                    offset = (String) written.getValue();
                    break;
                case 15:
                    zone = (String) written.getValue();
                    break;
                default:
                    return super.write(server, replace, resource, written);
            }
            say("written /3/0/" + resource + " " + written.getValue());
            fireResourceChange(resource);
            return WriteResponse.success();
        }

        @Override
        public ExecuteResponse execute(LwM2mServer server, int resource, Arguments arguments) {
            if (resource != 4) {
                return super.execute(server, resource, arguments);
            }
            say("executed /3/0/4 " + arguments.serialize());
            return ExecuteResponse.success();
        }

        private static Map<Integer, Long> integers(long... values) {
            Map<Integer, Long> instances = new TreeMap<>();
            for (long value : values) {
                instances.put(instances.size(), value);
            }
            return instances;
        }
    }

    private static final class Events extends LwM2mClientObserverAdapter {
        @Override
        public void onRegistrationSuccess(LwM2mServer server, RegisterRequest request, String id) {
            say("registered " + id);
        }

        @Override
        public void onRegistrationFailure(LwM2mServer server, RegisterRequest request, ResponseCode code, String message,
                Exception cause) {
            say("registration failed " + code + " " + message + " " + cause);
        }

        @Override
        public void onRegistrationTimeout(LwM2mServer server, RegisterRequest request) {
            say("registration failed by time-out");
        }

        @Override
        public void onUpdateSuccess(LwM2mServer server, UpdateRequest request) {
            say("updated");
        }

        @Override
        public void onUpdateFailure(LwM2mServer server, UpdateRequest request, ResponseCode code, String message,
                Exception cause) {
            say("update failed " + code + " " + message + " " + cause);
        }

        @Override
        public void onUpdateTimeout(LwM2mServer server, UpdateRequest request) {
            say("update failed by time-out");
        }

        @Override
        public void onDeregistrationSuccess(LwM2mServer server, DeregisterRequest request) {
            say("deregistered");
        }

        @Override
        public void onUnexpectedError(Throwable cause) {
            say("unexpected error " + cause);
        }
    }
}
