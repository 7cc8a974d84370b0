import sluiced.Worker;

/** A worker whose handler does nothing, for the bench beside this. */
public class BenchWorker {
    public static void main(String[] args) throws Exception {
        int credits = Integer.parseInt(System.getenv("BENCH_CREDITS"));
        boolean isEntries = System.getenv("BENCH_ENTRIES") != null;
        (isEntries ? Worker.batches(null, (job, entries) -> { }, credits) : new Worker(null, job -> { }, credits)).run();
    }
}
