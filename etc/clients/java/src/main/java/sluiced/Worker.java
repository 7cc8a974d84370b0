package sluiced;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Proxy;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/**
 * A worker for sluiced. One file, Java 17, nothing else, Linux.
 *
 * <pre>{@code
 * new Worker("/run/sluiced/worker.sock", job -> System.out.println(job.stream + " " + job.info + " " + job.token), 4).run();
 * }</pre>
 *
 * The handler returns: the stream is done. It throws: one retry is counted, with the exception as reason; {@link Fail} and
 * {@link Release} say more. SIGTERM and SIGINT: no new work, what is held is finished, then run() returns. A lost connection or a
 * restarted daemon costs nothing: the work goes on, the worker comes back with what it holds, and results are told until they are
 * confirmed.
 *
 * <p>A handler's thread is interrupted, and job.isStopping() becomes true, when its stream is revoked, or when the fence (the time until
 * which the daemon promised the stream) comes near because the daemon is frozen or away. Java cannot stop a thread from outside: when a
 * handler has not ended in time, this process ends (status 70), the only sure way left to keep two workers from one stream. Pings are
 * answered whatever handlers do.
 *
 * <p>Entries mode (services with entries: {enabled: true}): {@link #entries}, one call per entry, acknowledged when it has returned;
 * {@link #batches}, one call for as many as came together.
 */
public final class Worker {
    public static final String VERSION = "0.2.0";
    private static final String DEFAULT_SOCKET = "/run/sluiced/worker.sock";
    private static final int EXIT_NOT_STOPPED = 70;
    private static final long PAUSE_FIRST = 100, PAUSE_MOST = 2000; // ms between two attempts to connect
    private static final long RETRY_MS_MOST = 86400000;
    private static final int PROGRESS_ROOM = 1 << 20; // more than that waits for the daemon: progress is left out
    private static final int REASON_BYTES = 1024;

    /** Called once per stream. */
    public interface Handler {
        void work(Job job) throws Exception;
    }

    /** Called for each entry of a stream, in order. */
    public interface EntryHandler {
        void work(Job job, Entry entry) throws Exception;
    }

    /** Called for the entries of a stream that came together. */
    public interface BatchHandler {
        void work(Job job, List<Entry> entries) throws Exception;
    }

    /** Thrown by a handler: it failed. */
    public static class Fail extends Exception {
        private static final long serialVersionUID = 1;
        /** Never again. */
        public boolean dead;
        /** Not before so many milliseconds; null: the daemon decides. */
        public Long retryMs;
        /** The entry it is about, in a batch. */
        public String id;

        public Fail(String reason) {
            super(reason);
        }

        public Fail dead() {
            dead = true;
            return this;
        }

        public Fail retryMs(long ms) {
            retryMs = ms;
            return this;
        }

        public Fail entry(String entryId) {
            id = entryId;
            return this;
        }
    }

    /** Thrown by a handler: give the stream back, no retry is counted. */
    public static class Release extends Exception {
        private static final long serialVersionUID = 1;
        public Long retryMs;

        public Release() {
            super("released");
        }

        public Release retryMs(long ms) {
            retryMs = ms;
            return this;
        }
    }

    /**
     * run() cannot go on. code: what the daemon said (bad_hello, unauthorized, bad_version), "clock" (worker and daemon share no clock:
     * another host, a time namespace), "unconfirmed" (told to leave, and the daemon did not come back to confirm).
     */
    public static class SluiceException extends Exception {
        private static final long serialVersionUID = 1;
        public final String code;

        SluiceException(String code, String text) {
            super(code + ": " + text);
            this.code = code;
        }
    }

    /** One entry of a data stream. Fields in their order, duplicates kept. */
    public static final class Entry {
        public final String id;
        public final int tries;
        public final List<Field> fields = new ArrayList<>();

        Entry(List<?> row) {
            id = (String) row.get(0);
            tries = row.size() > 2 && row.get(2) instanceof Number n ? n.intValue() : 0;
            List<?> flat = (List<?>) row.get(1);
            for (int i = 0; i + 1 < flat.size(); i += 2) fields.add(new Field(value(flat.get(i)), value(flat.get(i + 1))));
        }

        private static Object value(Object v) {
            return v instanceof Map<?, ?> m ? Base64.getDecoder().decode((String) m.get("b64")) : v;
        }

        /** The value of the last field of that name as text; null when there is none. */
        public String get(String name) {
            for (int i = fields.size() - 1; i >= 0; i--)
                if (name.equals(fields.get(i).name()))
                    return fields.get(i).value() instanceof byte[] b ? new String(b, StandardCharsets.ISO_8859_1) : (String) fields.get(i).value();
            return null;
        }
    }

    /** A name and a value: String, or byte[] where it is not UTF-8. */
    public record Field(Object name, Object value) {
    }

    /** What a handler works on. */
    public static final class Job {
        public final String lease, service, stream, id, token;
        public final int retry;
        /** Map, List, String, Boolean, Long, BigInteger, BigDecimal or null: exactly what was added. */
        public final Object info;
        /** The same as JSON text, as it came. */
        public final String infoJson;
        /** traceparent, tracestate, baggage, those that were there. */
        public final Map<String, String> trace;
        private final Worker worker;
        volatile boolean isStopping;
        volatile boolean wantsEnd;

        Job(Worker worker, Map<String, Object> f, String infoJson) {
            this.worker = worker;
            this.infoJson = infoJson;
            lease = text(f, "lease");
            service = text(f, "service");
            stream = text(f, "stream");
            id = text(f, "id");
            token = text(f, "token");
            retry = f.get("retry") instanceof Number n ? n.intValue() : 0;
            info = f.get("info");
            trace = new LinkedHashMap<>();
            if (f.get("trace") instanceof Map<?, ?> m) m.forEach((k, v) -> trace.put((String) k, Objects.toString(v, "")));
        }

        /** The handler has to stop: the stream is not its own any more. Its thread is interrupted too. */
        public boolean isStopping() {
            return isStopping;
        }

        /** The work goes on; the note is shown by sluicectl. */
        public void progress(String note) {
            worker.events.add(() -> worker.onProgress(lease, note));
        }

        /** Everything up to and including this entry is finished (batches; single entries are acknowledged by returning). An id that
         * is none of this call's changes nothing. */
        public void ack(String entryId) {
            worker.events.add(() -> worker.onFinished(lease, entryId));
        }

        /** Ends the lease of an entries stream after this call of the handler. */
        public void finish() {
            wantsEnd = true;
        }
    }

    private static final class Lease {
        final String name;
        final Job job;
        final boolean isFeed;
        Thread thread;           // of the call, guarded by this
        boolean isBusy;          // a call of the handler is under way
        boolean isTold;          // to stop, by stopBy
        boolean isQuiet;         // nobody waits for an answer
        double stopBy;
        Map<String, Object> result; // to be told until it is confirmed
        Map<String, Object> last;   // the result, as soon as no call is under way
        final ArrayDeque<List<Entry>> queue = new ArrayDeque<>();
        Set<String> given = Set.of(); // the ids of the call's
        String finished;         // entries: the last id that is
        String acked;            // entries: the last id that was told over this connection
        boolean barrier;         // entries: a nack is on its way, what comes before its ok is void

        Lease(String name, Job job, boolean isFeed) {
            this.name = name;
            this.job = job;
            this.isFeed = isFeed;
        }
    }

    private final String socket;
    private final int credits;
    private Handler stream;
    private EntryHandler each;
    private BatchHandler batch;
    private String name = defaultName();
    private List<String> services;
    private boolean onTermRelease;
    private Consumer<String> log = System.err::println;

    private final BlockingQueue<Runnable> events = new LinkedBlockingQueue<>();
    private final ExecutorService handlers = Executors.newCachedThreadPool(r -> daemon(r, "sluice handler"));
    private final Map<String, Lease> leases = new LinkedHashMap<>();
    private final java.util.Set<String> misfits = new java.util.HashSet<>(); // services without entries, or with them, that were said
    private final Set<Lease> acks = new LinkedHashSet<>();
    private Connection conn;
    private boolean isWelcome, isLeaving, isOver;
    private String said; // why there is no session
    private String session;
    private double until = Double.NaN, fenced = Double.NaN, lead = 300;
    private long pause = PAUSE_FIRST;
    private double retryAt, helloAt;
    private SluiceException error;

    /** socket null: $SLUICED_WORKER, else /run/sluiced/worker.sock. */
    public Worker(String socket, Handler handler, int credits) {
        this(socket, credits);
        stream = Objects.requireNonNull(handler);
    }

    private Worker(String socket, int credits) {
        if (credits < 0 || credits > 10000) throw new IllegalArgumentException("credits: 0 to 10000");
        String env = System.getenv("SLUICED_WORKER");
        this.socket = socket != null ? socket : env != null && !env.isEmpty() ? env : DEFAULT_SOCKET;
        this.credits = credits;
    }

    public static Worker entries(String socket, EntryHandler handler, int credits) {
        Worker w = new Worker(socket, credits);
        w.each = Objects.requireNonNull(handler);
        return w;
    }

    public static Worker batches(String socket, BatchHandler handler, int credits) {
        Worker w = new Worker(socket, credits);
        w.batch = Objects.requireNonNull(handler);
        return w;
    }

    /** Shown by sluicectl; default: program@host:pid, host = $POD_NAME if set. */
    public Worker name(String text) {
        name = text;
        return this;
    }

    /** Only streams of these services. */
    public Worker services(String... names) {
        services = List.of(names);
        return this;
    }

    /** At SIGTERM give back what is not finished, uncounted, instead of finishing it. */
    public Worker onTermRelease() {
        onTermRelease = true;
        return this;
    }

    /** Where warnings go; default: standard error. */
    public Worker log(Consumer<String> to) {
        log = to;
        return this;
    }

    /** No new work, finish, leave; run() then returns. From any thread. */
    public void stop() {
        events.add(this::leave);
    }

    /** Returns when the worker has left after stop() or a signal. */
    public void run() throws SluiceException, InterruptedException {
        Signals signals = new Signals(this::stop);
        try {
            while (!isOver) {
                double left = deadline() - nowMs();
                Runnable event = left > 0 ? events.poll((long) Math.ceil(Math.min(left, 3.6e6)), TimeUnit.MILLISECONDS) : events.poll();
                for (int n = 0; event != null && !isOver && n < 1000; n++, event = n < 1000 ? events.poll() : null) event.run();
                lookAtTheTime();
                for (Lease x : new ArrayList<>(acks)) ack(x);
            }
        } finally {
            signals.restore();
            disconnect();
            handlers.shutdown();
        }
        if (error != null) throw error;
    }

    private double deadline() {
        double at = Double.POSITIVE_INFINITY;
        for (Lease x : leases.values()) if (x.isTold && x.isBusy) at = Math.min(at, x.stopBy);
        if (!Double.isNaN(until) && until != fenced) at = Math.min(at, until - lead);
        if (conn == null && error == null) at = Math.min(at, retryAt);
        if (isLeaving && !isWelcome && until > nowMs()) at = Math.min(at, until);
        return at;
    }

    private void lookAtTheTime() {
        double now = nowMs();
        if (!Double.isNaN(until) && until != fenced && now >= until - lead) {
            fenced = until;
            for (Lease x : new ArrayList<>(leases.values())) if (!x.isTold && x.result == null) stopWork(x, until);
        }
        boolean isBusy = false;
        for (Lease x : leases.values()) {
            isBusy |= x.isBusy;
            if (x.isTold && x.isBusy && now >= x.stopBy) {
                System.err.println("sluice: the handler of " + x.job.stream + " did not stop in time: this process ends");
                Runtime.getRuntime().halt(EXIT_NOT_STOPPED);
            }
        }
        if (isLeaving && !isWelcome) {
            if (!leases.isEmpty() && error == null && now >= until && !isBusy)
                giveUp("unconfirmed", leases.size() + " results were not confirmed: the daemon is away");
            if (leases.isEmpty()) isOver = true;
        }
        if (conn == null && error == null && !isOver && now >= retryAt) connect();
    }

    /** run() throws it as soon as no handler is at work any more. */
    private void giveUp(String code, String text) {
        error = new SluiceException(code, text);
        isLeaving = true;
        disconnect();
        for (Lease x : new ArrayList<>(leases.values())) lose(x);
    }

    // ---- the socket

    /** A reader and a writer thread: nothing else waits for the daemon. */
    private final class Connection {
        final SocketChannel channel;
        private final ByteArrayOutputStream out = new ByteArrayOutputStream();
        private boolean isEnding;
        private final Thread writer = daemon(this::write, "sluice writer");

        Connection() throws IOException {
            channel = SocketChannel.open(UnixDomainSocketAddress.of(socket));
            daemon(this::read, "sluice reader").start();
            writer.start();
        }

        private void read() {
            ByteBuffer buf = ByteBuffer.allocate(1 << 16);
            ByteArrayOutputStream line = new ByteArrayOutputStream();
            try {
                while (channel.read(buf.clear()) >= 0) {
                    buf.flip();
                    while (buf.hasRemaining()) {
                        byte b = buf.get();
                        if (b != '\n') {
                            line.write(b);
                            continue;
                        }
                        String text = line.toString(StandardCharsets.UTF_8).strip();
                        line.reset();
                        if (!text.isEmpty()) events.add(() -> onLine(this, text));
                    }
                }
            } catch (IOException e) {
                // as its end
            }
            events.add(() -> onEnd(this)); // what is left in line is half a frame
        }

        private void write() {
            try {
                for (;;) {
                    byte[] data;
                    synchronized (out) {
                        while (out.size() == 0 && !isEnding) out.wait();
                        data = out.toByteArray();
                        out.reset();
                    }
                    if (data.length == 0) return;
                    for (ByteBuffer b = ByteBuffer.wrap(data); b.hasRemaining();) channel.write(b);
                }
            } catch (IOException | InterruptedException e) {
                // the reader sees it
            }
        }

        void send(String line) {
            byte[] b = (line + "\n").getBytes(StandardCharsets.UTF_8);
            synchronized (out) {
                out.write(b, 0, b.length);
                out.notify();
            }
        }

        int waiting() {
            synchronized (out) {
                return out.size();
            }
        }

        /** What waits goes out, for a second at most. */
        void close() {
            synchronized (out) {
                isEnding = true;
                out.notify();
            }
            try {
                writer.join(1000);
                channel.close();
            } catch (IOException | InterruptedException e) {
                // it is closed
            }
        }
    }

    private void connect() {
        try {
            conn = new Connection();
        } catch (IOException e) {
            trouble("sluice: " + socket + ": " + e.getMessage() + "; trying until it answers");
            later();
            return;
        }
        Map<String, Object> hello = frame("hello", "v", 1, "name", name, "credits", isLeaving ? 0 : credits, "services", services);
        if (stream == null) hello.put("entries", true);
        if (session != null) {
            hello.put("session", session);
            hello.put("resume", leases.values().stream().filter(x -> !x.isQuiet).map(x -> x.name).toList());
        }
        helloAt = nowMs();
        send(hello);
    }

    /** Why there is no session: once, until there is one. */
    private void trouble(String text) {
        if (!text.equals(said)) log.accept(text);
        said = text;
    }

    private void later() {
        retryAt = nowMs() + pause;
        pause = Math.min(2 * pause, PAUSE_MOST);
    }

    private void disconnect() {
        if (conn != null) conn.close();
        conn = null;
        isWelcome = false;
    }

    private void onEnd(Connection c) {
        if (c != conn) return;
        disconnect();
        later();
    }

    private void send(Map<String, Object> f) {
        if (conn != null) conn.send(Json.write(f));
    }

    private void send(String t, Object... fields) {
        send(frame(t, fields));
    }

    // ---- frames

    private void onLine(Connection c, String line) {
        if (c != conn) return;
        boolean isTooDeep = false;
        Map<String, Object> f;
        try {
            f = Json.object(line);
        } catch (StackOverflowError e) { // info may nest deeper than a stack
            int[] span = Json.spanOfInfo(line);
            f = Json.object(line.substring(0, span[0]) + "null" + line.substring(span[1]));
            isTooDeep = true;
        } catch (IllegalArgumentException | IndexOutOfBoundsException e) {
            f = Map.of();
        }
        if (text(f, "t").isEmpty()) {
            trouble("sluice: " + socket + ": this is not the worker protocol: " + line.substring(0, Math.min(80, line.length()))
                    + "; connecting again");
            onEnd(c);
            return;
        }
        if (f.get("until_ms") instanceof Number n) until = n.doubleValue();
        Lease x = leases.get(text(f, "lease"));
        switch (text(f, "t")) {
            case "welcome" -> onWelcome(f);
            case "assign" -> {
                if (x == null) onAssign(f, line, isTooDeep);
            }
            case "entries" -> onEntries(f, x);
            case "ok" -> onOk(f, x);
            case "ping" -> send("pong", "n", f.get("n"));
            case "revoke" -> {
                if (x == null) send("revoked", "lease", f.get("lease"));
                else if (x.result == null) stopWork(x, nowMs() + number(f, "grace_ms"));
            }
            case "ended" -> {
                if (x != null) lose(x);
            }
            case "err" -> onErr(f, x);
            default -> {
            }
        }
    }

    private void onWelcome(Map<String, Object> f) {
        double mine = nowMs(), t = number(f, "lease_ms");
        if (f.get("now_ms") instanceof Number its // it was written between hello and now
                && (its.doubleValue() < helloAt - t || its.doubleValue() > mine + t)) {
            send("bye");
            giveUp("clock", String.format("this worker's monotonic clock says %.0f ms, the daemon's %s ms: they share no clock "
                    + "(another host, or a time namespace), so no fence could hold", mine, its));
            return;
        }
        if (f.get("now_ms") == null && stream == null) { // 0.1 would ignore that we want entries, and assign streams without end
            send("bye");
            giveUp("bad_version", text(f, "server") + " is older than entries mode, which came with sluiced 0.2");
            return;
        }
        for (Object name : list(f, "not_served"))
            if (misfits.add(String.valueOf(name)))
                log.accept("sluice: " + name + " is in entries mode: this worker takes no entries, so it gets nothing of it");
        session = text(f, "session");
        isWelcome = true;
        said = null;
        pause = PAUSE_FIRST;
        lead = Math.min(500, t / 10);
        Map<Object, Object> gone = new HashMap<>();
        for (Object g : list(f, "gone")) if (g instanceof Map<?, ?> m) gone.put(m.get("lease"), m.get("outcome"));
        List<?> resumed = list(f, "resumed");
        for (Lease x : new ArrayList<>(leases.values())) {
            if (resumed.contains(x.name)) {
                resume(x);
                continue;
            }
            if (x.result != null && "lost".equals(gone.get(x.name)))
                log.accept("sluice: " + x.job.stream + ": the result was not accepted, the stream was lost");
            lose(x);
        }
        if (isLeaving) send("credits", "n", 0);
        maybeLeave();
    }

    private void resume(Lease x) {
        x.barrier = false;
        x.acked = null;
        x.queue.clear(); // its entries come again
        ack(x);
        if (x.result != null) tell(x);
    }

    private void onAssign(Map<String, Object> f, String line, boolean isTooDeep) {
        if (isLeaving) {
            send("release", "lease", f.get("lease"));
            return;
        }
        int[] span = Json.spanOfInfo(line);
        String infoJson = span[0] < 0 ? "null" : line.substring(span[0], span[1]).strip();
        Lease x = new Lease(text(f, "lease"), new Job(this, f, infoJson), stream == null);
        leases.put(x.name, x);
        if (isTooDeep) end(x, frame("fail", "reason", "info is nested deeper than this worker can read"));
        else if (nowMs() >= until - lead) end(x, frame("revoked")); // read too late: it never begins
        else if (x.isFeed && f.get("entries") == null) {
            // somebody else must work on it: it comes back after a while, so that a backlog of them does not go round and round
            if (misfits.add(x.job.service))
                log.accept("sluice: " + x.job.service + " is a service without entries: its streams are given back for 30 s each; "
                        + "name the services of this worker");
            end(x, frame("release", "retry_ms", 30000));
        } else if (!x.isFeed) begin(x, null);
    }

    private void onEntries(Map<String, Object> f, Lease x) {
        if (x == null || x.barrier || x.isTold || x.result != null) return;
        List<Entry> rows = new ArrayList<>();
        for (Object row : list(f, "e")) rows.add(new Entry((List<?>) row));
        x.queue.add(rows);
        pump(x);
    }

    private void onOk(Map<String, Object> f, Lease x) {
        String of = text(f, "for");
        if (x == null || "ack".equals(of)) return;
        if ("nack".equals(of)) {
            x.barrier = false;
            x.queue.clear();
        } else if (x.result != null) forget(x);
    }

    private void onErr(Map<String, Object> f, Lease x) {
        String code = text(f, "code"), msg = text(f, "msg");
        if (Boolean.TRUE.equals(f.get("fatal"))) trouble("sluiced: " + code + ": " + msg);
        else log.accept("sluiced: " + code + ": " + msg);
        switch (code) {
            case "bad_version", "bad_hello", "unauthorized" -> giveUp(code, msg);
            case "not_owner", "unknown_lease" -> {
                if (x != null) lose(x);
            }
            case "bad_field" -> {
                if (x != null && x.result != null) lose(x);
                else if (x != null && x.barrier) end(x, frame("release")); // no answer to the nack will come
            }
            default -> {
            }
        }
    }

    // ---- handlers

    private void begin(Lease x, List<Entry> rows) {
        x.isBusy = true;
        x.given = new LinkedHashSet<>();
        if (rows != null) for (Entry e : rows) x.given.add(e.id);
        x.job.wantsEnd = false;
        handlers.execute(() -> {
            synchronized (x) {
                x.thread = Thread.currentThread();
            }
            Throwable problem = null;
            try {
                if (!x.job.isStopping) call(x.job, rows);
            } catch (Throwable e) {
                problem = e;
            }
            synchronized (x) { // an interrupt meets no other call
                x.thread = null;
                Thread.interrupted();
            }
            Throwable p = problem;
            boolean wasStopped = x.job.isStopping; // who was told to stop may have returned early, with or without an exception
            events.add(() -> ended(x, wasStopped, p));
        });
    }

    private void call(Job job, List<Entry> rows) throws Exception {
        if (stream != null) {
            stream.work(job);
        } else if (batch != null) {
            batch.work(job, Collections.unmodifiableList(rows));
            if (!job.isStopping) job.ack(rows.get(rows.size() - 1).id);
        } else {
            for (Entry e : rows) {
                if (job.isStopping) return;
                each.work(job, e);
                job.ack(e.id);
            }
        }
    }

    /** The next call for a stream's entries. */
    private void pump(Lease x) {
        while (!x.isBusy && !x.queue.isEmpty() && x.last == null) {
            List<Entry> rows = x.queue.poll().stream().filter(e -> isAfter(e.id, x.finished)).toList();
            if (!rows.isEmpty()) {
                begin(x, rows);
                return;
            }
            x.acked = null; // it came again after all was finished
            ack(x);
        }
        if (x.last != null && !x.isBusy && x.result == null) end(x, x.last);
    }

    private void ack(Lease x) {
        acks.remove(x);
        if (!isWelcome || x.finished == null || x.finished.equals(x.acked)) return;
        x.acked = x.finished;
        send("ack", "lease", x.name, "id", x.finished);
    }

    private void onProgress(String lease, String note) {
        Lease x = leases.get(lease);
        if (x != null && isWelcome && !x.isQuiet && conn.waiting() < PROGRESS_ROOM)
            send("progress", "lease", lease, "note", note == null ? null : clean(note));
    }

    private void onFinished(String lease, String id) {
        Lease x = leases.get(lease);
        if (x == null || !isUnfinished(x, id)) return;
        x.finished = id;
        if (!x.isQuiet) acks.add(x);
    }

    private void ended(Lease x, boolean wasStopped, Throwable problem) {
        x.isBusy = false;
        if (x.isQuiet) forget(x);
        else if (wasStopped || x.isTold && (problem != null || x.isFeed)) stopped(x);
        else if (x.isFeed) entriesEnded(x, problem);
        else end(x, outcome(problem));
    }

    private static Map<String, Object> outcome(Throwable problem) {
        if (problem == null) return frame("done");
        if (problem instanceof Release r) return frame("release", "retry_ms", pauseOf(r.retryMs));
        if (problem instanceof Fail f)
            return frame("fail", "reason", clean(f.getMessage()), "dead", f.dead ? true : null, "retry_ms", pauseOf(f.retryMs));
        return frame("fail", "reason", clean(problem.toString()));
    }

    private void entriesEnded(Lease x, Throwable problem) {
        ack(x);
        Map<String, Object> f = outcome(problem);
        if (problem instanceof Release) {
            x.last = f;
        } else if (problem != null) { // held against the first entry that is not finished
            String id = problem instanceof Fail p && isUnfinished(x, p.id) ? p.id
                    : x.given.stream().filter(i -> isAfter(i, x.finished)).findFirst().orElse(null);
            if (id != null) {
                x.barrier = true;
                x.queue.clear();
                f.put("t", "nack");
                f.put("lease", x.name);
                f.put("id", id);
                send(f);
            }
        } else if (x.job.wantsEnd) {
            x.last = f;
        }
        if (isLeaving && x.last == null) x.last = frame("release");
        pump(x);
    }

    /** One of the entries of the call under way, and not finished yet. */
    private static boolean isUnfinished(Lease x, String id) {
        return id != null && x.given.contains(id) && isAfter(id, x.finished);
    }

    private static Long pauseOf(Long ms) {
        return ms == null ? null : Long.valueOf(Math.max(0, Math.min(ms, RETRY_MS_MOST)));
    }

    // ---- a lease's way to its end

    /** Asked to stop now; what has not by then ends the process. */
    private void stopWork(Lease x, double by) {
        double latest = Double.isNaN(until) ? by : Math.min(by, until);
        if (x.isTold) {
            x.stopBy = Math.min(x.stopBy, latest);
            return;
        }
        x.isTold = true;
        x.stopBy = latest;
        if (!x.isBusy) {
            stopped(x);
            return;
        }
        synchronized (x) {
            x.job.isStopping = true;
            if (x.thread != null) x.thread.interrupt();
        }
    }

    private void stopped(Lease x) {
        ack(x);
        end(x, x.last != null && "release".equals(x.last.get("t")) ? x.last : frame("revoked"));
    }

    /** Not ours any more, and nobody waits for an answer. */
    private void lose(Lease x) {
        x.isQuiet = true;
        if (x.isBusy) stopWork(x, nowMs() + lead);
        else forget(x);
    }

    private void end(Lease x, Map<String, Object> result) {
        result.put("lease", x.name);
        x.result = result;
        if (isWelcome) tell(x);
    }

    private void tell(Lease x) {
        send(x.result);
        if ("revoked".equals(x.result.get("t"))) forget(x); // gets no answer
    }

    private void forget(Lease x) {
        leases.remove(x.name);
        acks.remove(x);
        maybeLeave();
    }

    private void leave() {
        if (isLeaving) return;
        isLeaving = true;
        if (isWelcome) send("credits", "n", 0);
        for (Lease x : new ArrayList<>(leases.values())) {
            if (x.result != null) continue;
            if (onTermRelease) {
                x.last = frame("release");
                stopWork(x, nowMs() + 5000);
            } else if (x.isFeed) {
                x.last = frame("release"); // after the call that is under way
                pump(x);
            }
        }
        maybeLeave();
    }

    private void maybeLeave() {
        if (!isLeaving || !leases.isEmpty() || !isWelcome || isOver) return;
        send("bye");
        isOver = true;
    }

    // ---- small things

    private static double nowMs() {
        return System.nanoTime() / 1e6; // on Linux CLOCK_MONOTONIC, the clock of until_ms
    }

    private static Thread daemon(Runnable r, String name) {
        Thread t = new Thread(r, name);
        t.setDaemon(true);
        return t;
    }

    private static String defaultName() {
        String main = System.getProperty("sun.java.command", "").split(" ")[0], host = System.getenv("POD_NAME");
        main = main.substring(main.lastIndexOf('/') + 1);
        if (host == null || host.isEmpty()) host = host();
        return String.format("%.50s@%.60s:%d", main.isEmpty() ? "java" : main, host, ProcessHandle.current().pid());
    }

    private static String host() {
        try {
            return Files.readString(Path.of("/proc/sys/kernel/hostname")).strip(); // InetAddress would ask the resolver
        } catch (IOException e) {
            return "";
        }
    }

    private static String clean(String s) {
        byte[] b = Objects.toString(s, "").getBytes(StandardCharsets.UTF_8);
        int n = Math.min(b.length, REASON_BYTES);
        while (n < b.length && n > 0 && (b[n] & 0xc0) == 0x80) n--;
        return new String(Arrays.copyOf(b, n), StandardCharsets.UTF_8);
    }

    private static boolean isAfter(String a, String b) {
        if (b == null) return true;
        String[] x = a.split("-"), y = b.split("-");
        int ms = Long.compareUnsigned(Long.parseUnsignedLong(x[0]), Long.parseUnsignedLong(y[0]));
        return ms != 0 ? ms > 0 : Long.compareUnsigned(seq(x), seq(y)) > 0;
    }

    private static long seq(String[] id) {
        return id.length > 1 ? Long.parseUnsignedLong(id[1]) : 0;
    }

    private static Map<String, Object> frame(String t, Object... fields) {
        Map<String, Object> f = new LinkedHashMap<>();
        f.put("t", t);
        for (int i = 0; i < fields.length; i += 2) if (fields[i + 1] != null) f.put((String) fields[i], fields[i + 1]);
        return f;
    }

    private static String text(Map<String, Object> f, String key) {
        return f.get(key) instanceof String s ? s : "";
    }

    private static double number(Map<String, Object> f, String key) {
        return f.get(key) instanceof Number n ? n.doubleValue() : 0;
    }

    private static List<?> list(Map<String, Object> f, String key) {
        return f.get(key) instanceof List<?> l ? l : List.of();
    }

    /** SIGTERM and SIGINT, by sun.misc.Signal (module jdk.unsupported): a shutdown hook could not end the process with status 0. */
    private static final class Signals {
        private final Map<Object, Object> old = new HashMap<>();

        Signals(Runnable stop) {
            try {
                Class<?> signal = Class.forName("sun.misc.Signal"), handler = Class.forName("sun.misc.SignalHandler");
                InvocationHandler on = (proxy, method, args) -> switch (method.getName()) {
                    case "handle" -> {
                        stop.run();
                        yield null;
                    }
                    case "hashCode" -> System.identityHashCode(proxy);
                    case "equals" -> proxy == args[0];
                    default -> "sluice";
                };
                Object mine = Proxy.newProxyInstance(handler.getClassLoader(), new Class<?>[] {handler}, on);
                for (String s : List.of("TERM", "INT")) {
                    Object sig = signal.getConstructor(String.class).newInstance(s);
                    old.put(sig, signal.getMethod("handle", signal, handler).invoke(null, sig, mine));
                }
            } catch (ReflectiveOperationException e) { // another virtual machine: stop() is still there
                old.clear();
            }
        }

        void restore() {
            try {
                Class<?> signal = Class.forName("sun.misc.Signal"), handler = Class.forName("sun.misc.SignalHandler");
                for (Map.Entry<Object, Object> s : old.entrySet())
                    signal.getMethod("handle", signal, handler).invoke(null, s.getKey(), s.getValue());
            } catch (ReflectiveOperationException e) {
                // they stay
            }
        }
    }

    /** As much JSON as frames need; numbers stay exact. */
    static final class Json {
        private final String s;
        private int at;

        private Json(String s) {
            this.s = s;
        }

        @SuppressWarnings("unchecked")
        static Map<String, Object> object(String line) {
            Json j = new Json(line);
            if (j.value() instanceof Map<?, ?> m) return (Map<String, Object>) m;
            throw new IllegalArgumentException("not an object");
        }

        static Object parse(String text) {
            return new Json(text).value();
        }

        private char next() {
            while (at < s.length() && s.charAt(at) <= ' ') at++;
            if (at == s.length()) throw new IllegalArgumentException("ends too early");
            return s.charAt(at);
        }

        private Object value() {
            char c = next();
            switch (c) {
                case '{':
                    return map();
                case '[':
                    return array();
                case '"':
                    return string();
                case 't':
                    at += 4;
                    return true;
                case 'f':
                    at += 5;
                    return false;
                case 'n':
                    at += 4;
                    return null;
                default:
                    return numeral();
            }
        }

        private Map<String, Object> map() {
            Map<String, Object> m = new LinkedHashMap<>();
            at++;
            while (next() != '}') {
                if (s.charAt(at) == ',') {
                    at++;
                    next();
                }
                String key = string();
                if (next() != ':') throw new IllegalArgumentException("no colon");
                at++;
                m.putIfAbsent(key, value()); // of two the first counts
            }
            at++;
            return m;
        }

        private List<Object> array() {
            List<Object> l = new ArrayList<>();
            at++;
            while (next() != ']') {
                if (s.charAt(at) == ',') at++;
                l.add(value());
            }
            at++;
            return l;
        }

        private String string() {
            StringBuilder b = new StringBuilder();
            for (at++; s.charAt(at) != '"'; at++) {
                char c = s.charAt(at);
                if (c == '\\') {
                    c = s.charAt(++at);
                    int i = "bfnrt".indexOf(c);
                    if (i >= 0) c = "\b\f\n\r\t".charAt(i);
                    if (c == 'u' && i < 0) {
                        c = (char) Integer.parseInt(s.substring(at + 1, at + 5), 16);
                        at += 4;
                    }
                }
                b.append(c);
            }
            at++;
            return b.toString();
        }

        private Object numeral() {
            int from = at;
            boolean isWhole = true;
            for (; at < s.length() && "+-0123456789.eE".indexOf(s.charAt(at)) >= 0; at++) isWhole &= ".eE".indexOf(s.charAt(at)) < 0;
            String n = s.substring(from, at);
            if (!isWhole) return new BigDecimal(n);
            BigInteger i = new BigInteger(n);
            if (i.bitLength() < 64) return i.longValue();
            return i;
        }

        /** Where the value of the top-level `info` stands. */
        static int[] spanOfInfo(String line) {
            int depth = 0, from = -1;
            boolean isInfo = false;
            for (int i = 0; i < line.length(); i++) {
                char c = line.charAt(i);
                if (c == '"') {
                    int begin = i;
                    for (i++; i < line.length() && line.charAt(i) != '"'; i++) if (line.charAt(i) == '\\') i++;
                    isInfo = depth == 1 && from < 0 && line.startsWith("\"info\"", begin) && i == begin + 5;
                } else if (c == ':' && isInfo) {
                    from = i + 1;
                    isInfo = false;
                } else if ((c == ',' || c == '}') && depth == 1 && from >= 0) {
                    return new int[] {from, i};
                } else if (c == '{' || c == '[') {
                    depth++;
                } else if (c == '}' || c == ']') {
                    depth--;
                }
            }
            return new int[] {-1, -1};
        }

        static String write(Object v) {
            StringBuilder b = new StringBuilder();
            write(b, v);
            return b.toString();
        }

        private static void write(StringBuilder b, Object v) {
            if (v instanceof Map<?, ?> m) {
                char sep = '{';
                for (Map.Entry<?, ?> e : m.entrySet()) {
                    b.append(sep);
                    quote(b, (String) e.getKey());
                    write(b.append(':'), e.getValue());
                    sep = ',';
                }
                b.append(sep == '{' ? "{}" : "}");
            } else if (v instanceof List<?> l) {
                char sep = '[';
                for (Object x : l) {
                    write(b.append(sep), x);
                    sep = ',';
                }
                b.append(sep == '[' ? "[]" : "]");
            } else if (v instanceof String s) {
                quote(b, s);
            } else {
                b.append(v);
            }
        }

        private static void quote(StringBuilder b, String s) {
            b.append('"');
            for (int i = 0; i < s.length(); i++) {
                char c = s.charAt(i);
                if (c == '"' || c == '\\') b.append('\\').append(c);
                else if (c < ' ') b.append(String.format("\\u%04x", (int) c));
                else b.append(c);
            }
            b.append('"');
        }
    }
}
