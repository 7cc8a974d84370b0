package sluiced;

import java.io.FileOutputStream;
import java.io.IOException;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The Java client under the conformance suite: its handler does what `info` says (README.md). */
public class ConformanceWorker {
    private static FileOutputStream journal;

    private static void note(String e, Worker.Job job, String entry, Map<String, Object> more) throws IOException {
        Map<String, Object> row = new LinkedHashMap<>(more);
        row.put("ms", System.nanoTime() / 1e6);
        row.put("e", e);
        row.put("stream", job.stream);
        row.put("token", job.token);
        if (entry != null) row.put("entry", entry);
        String line = Worker.Json.write(row);
        if (e.equals("begin")) line = line.substring(0, line.length() - 1) + ",\"info\":" + job.infoJson + "}";
        journal.write((line + "\n").getBytes(StandardCharsets.UTF_8));
    }

    private static double seconds(Map<?, ?> does, String key) {
        return does.get(key) instanceof Number n ? n.doubleValue() : 0;
    }

    private static void act(Map<?, ?> does, Worker.Job job, String entry) throws Exception {
        if (does.get("ack") instanceof List<?> ids) for (Object id : ids) job.ack((String) id);
        for (int i = 0; i < seconds(does, "progress"); i++) job.progress("note " + i);
        long end = System.nanoTime() + (long) (1e9 * (seconds(does, "sleep") + seconds(does, "block")));
        for (long left = end - System.nanoTime(); left > 0; left = end - System.nanoTime()) {
            note("tick", job, entry, Map.of());
            try {
                Thread.sleep(Math.min(30, left / 1_000_000 + 1));
            } catch (InterruptedException e) {
                if (does.containsKey("block")) continue; // work that will not hear of it
                note("stopped", job, entry, Map.of());
                throw e;
            }
        }
        Long retry = does.get("retry_ms") instanceof Number n ? n.longValue() : null;
        if (does.get("raise") instanceof String s) throw new IllegalStateException(s);
        if (does.get("fail") instanceof String s) {
            Worker.Fail f = new Worker.Fail(s);
            f.dead = Boolean.TRUE.equals(does.get("dead"));
            f.retryMs = retry;
            throw f;
        }
        if (Boolean.TRUE.equals(does.get("release"))) {
            Worker.Release r = new Worker.Release();
            r.retryMs = retry;
            throw r;
        }
        if (Boolean.TRUE.equals(does.get("done"))) job.finish();
        note("end", job, entry, Map.of());
    }

    private static void work(Worker.Job job) throws Exception {
        note("begin", job, null, Map.of("service", job.service, "id", job.id, "retry", job.retry, "trace", job.trace));
        act(job.info instanceof Map<?, ?> m ? m : Map.of(), job, null);
    }

    private static Object plain(Object v) {
        return v instanceof byte[] b ? Map.of("bytes", String.format("%0" + 2 * b.length + "x", new BigInteger(1, b))) : v;
    }

    private static void workEntry(Worker.Job job, Worker.Entry e) throws Exception {
        List<Object> fields = e.fields.stream().map(f -> (Object) List.of(plain(f.name()), plain(f.value()))).toList();
        note("entry", job, e.id, Map.of("tries", e.tries, "fields", fields));
        act(e.get("do") == null ? Map.of() : (Map<?, ?>) Worker.Json.parse(e.get("do")), job, e.id);
    }

    private static void workBatch(Worker.Job job, List<Worker.Entry> entries) throws Exception {
        for (Worker.Entry e : entries) workEntry(job, e);
    }

    public static void main(String[] args) throws Exception {
        journal = new FileOutputStream(System.getenv("CONF_JOURNAL"), true);
        int credits = Integer.parseInt(System.getenv("CONF_CREDITS"));
        String entries = System.getenv().getOrDefault("CONF_ENTRIES", "");
        Worker w = entries.equals("each") ? Worker.entries(null, ConformanceWorker::workEntry, credits)
                : entries.equals("batch") ? Worker.batches(null, ConformanceWorker::workBatch, credits)
                : new Worker(null, ConformanceWorker::work, credits);
        if ("release".equals(System.getenv("CONF_ON_TERM"))) w.onTermRelease();
        w.run();
    }
}
