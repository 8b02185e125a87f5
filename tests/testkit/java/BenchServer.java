import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Collection;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicLong;
import org.eclipse.leshan.core.observation.CompositeObservation;
import org.eclipse.leshan.core.observation.Observation;
import org.eclipse.leshan.core.observation.SingleObservation;
import org.eclipse.leshan.core.request.ContentFormat;
import org.eclipse.leshan.core.request.ObserveRequest;
import org.eclipse.leshan.core.response.ObserveCompositeResponse;
import org.eclipse.leshan.core.response.ObserveResponse;
import org.eclipse.leshan.server.LeshanServer;
import org.eclipse.leshan.server.LeshanServerBuilder;
import org.eclipse.leshan.server.observation.ObservationListener;
import org.eclipse.leshan.server.registration.Registration;
import org.eclipse.leshan.server.registration.RegistrationListener;
import org.eclipse.leshan.server.registration.RegistrationUpdate;
import org.eclipse.leshan.transport.californium.server.endpoint.CaliforniumServerEndpointsProvider;
import org.eclipse.leshan.transport.californium.server.endpoint.coap.CoapServerProtocolProvider;

/**
 * Leshan's LwM2M server with everything in memory, at its defaults, that counts what it is told.
 *
 * Argument: the port. Commands on standard input, each answered with one line:
 *
 *   observe <path> <endpoint prefix> <count>   observing <how many devices said yes>
 *   counts                                     counts <registered> <updated> <deregistered> <notified>
 */
public final class BenchServer {
    private static final AtomicLong REGISTERED = new AtomicLong();
    private static final AtomicLong UPDATED = new AtomicLong();
    private static final AtomicLong DEREGISTERED = new AtomicLong();
    private static final AtomicLong NOTIFIED = new AtomicLong();
    /** Requests on their way at one time. */
    private static final int TOGETHER = 64;

    private BenchServer() {
    }

    public static void main(String[] arguments) throws Exception {
        CaliforniumServerEndpointsProvider endpoints = new CaliforniumServerEndpointsProvider.Builder(
                new CoapServerProtocolProvider()).addEndpoint("coap://127.0.0.1:" + arguments[0]).build();
        LeshanServer server = new LeshanServerBuilder().setEndpointsProviders(endpoints).build();
        server.getRegistrationService().addListener(new CountRegistrations());
        server.getObservationService().addListener(new CountNotifications());
        server.start();
        System.out.println("started");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.split(" ");
            if (words[0].equals("observe")) {
                System.out.println("observing " + observe(server, words[1], words[2], Integer.parseInt(words[3])));
            } else if (words[0].equals("counts")) {
                System.out.println("counts " + REGISTERED + " " + UPDATED + " " + DEREGISTERED + " " + NOTIFIED);
            }
        }
    }

    private static long observe(LeshanServer server, String path, String prefix, int count) throws Exception {
        AtomicLong observing = new AtomicLong();
        Semaphore together = new Semaphore(TOGETHER);
        for (int device = 0; device < count; device++) {
            together.acquire();
            Registration registration = server.getRegistrationService().getByEndpoint(prefix + device);
            if (registration == null) {
                together.release();
                continue;
            }
            server.send(registration, new ObserveRequest(ContentFormat.TLV, path), response -> {
                if (response.isSuccess()) {
                    observing.incrementAndGet();
                }
                together.release();
            }, error -> together.release());
        }
        together.acquire(TOGETHER);
        return observing.get();
    }

    private static final class CountRegistrations implements RegistrationListener {
        @Override
        public void registered(Registration now, Registration before, Collection<Observation> observations) {
            REGISTERED.incrementAndGet();
        }

        @Override
        public void updated(RegistrationUpdate update, Registration now, Registration before) {
            UPDATED.incrementAndGet();
        }

        @Override
        public void unregistered(Registration was, Collection<Observation> observations, boolean expired,
                Registration now) {
            DEREGISTERED.incrementAndGet();
        }
    }

    private static final class CountNotifications implements ObservationListener {
        @Override
        public void newObservation(Observation observation, Registration registration) {
        }

        @Override
        public void cancelled(Observation observation) {
        }

        @Override
        public void onResponse(SingleObservation observation, Registration registration, ObserveResponse response) {
            NOTIFIED.incrementAndGet();
        }

        @Override
        public void onResponse(CompositeObservation observation, Registration registration,
                ObserveCompositeResponse response) {
            NOTIFIED.incrementAndGet();
        }

        @Override
        public void onError(Observation observation, Registration registration, Exception error) {
            error.printStackTrace();
        }
    }
}
