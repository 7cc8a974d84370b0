//go:build linux

// Package sluice is a worker for sluiced. The standard library only, Go 1.19 or newer.
//
//	func work(ctx context.Context, job *sluice.Job) error {
//		fmt.Println(job.Stream, string(job.Info), job.Token)
//		return nil
//	}
//	func main() { sluice.New("/run/sluiced/worker.sock", work, 4).Main() }
//
// The handler returns nil: the stream is done. It returns an error, or panics: one retry is counted, with that as reason; *Fail and
// *Release say more. SIGTERM and SIGINT: no new work, what is held is finished, then Run returns nil. A lost connection or a
// restarted daemon costs nothing: the work goes on, the worker comes back with what it holds, and results are told until they are
// confirmed.
//
// ctx is cancelled when the stream is revoked, or when the fence (the time until which the daemon promised the stream) comes near
// because the daemon is frozen or away. Go cannot stop a goroutine from outside: when a handler has not returned in time, this
// process ends (status 70), the only sure way left to keep two workers from one stream. Pings are answered whatever handlers do.
//
// Entries mode (services with entries: {enabled: true}): NewEntries, one call per entry, acknowledged when it has returned nil;
// NewBatches, one call for as many as came together.
package sluice

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	// Version of this client.
	Version        = "0.2.0"
	defaultSocket  = "/run/sluiced/worker.sock"
	exitNotStopped = 70
	pauseFirst     = 100 * time.Millisecond
	pauseMost      = 2 * time.Second
	retryMsMost    = 86400000
	progressRoom   = 1 << 20 // more than that waits for the daemon: progress is left out
	reasonBytes    = 1024
)

// Fail is an error that says more: Dead: never again; RetryMs: not before (see Ms); ID: the entry it is about, in a batch.
type Fail struct {
	Reason  string
	Dead    bool
	RetryMs *int64
	ID      string
}

func (f *Fail) Error() string { return f.Reason }

// Release is an error that gives the stream back; no retry is counted.
type Release struct{ RetryMs *int64 }

func (*Release) Error() string { return "released" }

// Ms makes a RetryMs.
func Ms(n int64) *int64 { return &n }

// Error is why Run could not go on. Code: what the daemon said (bad_hello, unauthorized, bad_version), "clock" (worker and daemon share
// no clock: another host, a time namespace), or "unconfirmed" (told to leave, and the daemon did not come back to confirm).
type Error struct{ Code, Msg string }

func (e *Error) Error() string { return e.Code + ": " + e.Msg }

// Job is what a handler works on.
type Job struct {
	Lease, Service, Stream, ID, Token string
	Retry                             int
	Info                              json.RawMessage   // any JSON value, exactly as it was added
	Trace                             map[string]string // traceparent, tracestate, baggage, those that were there
	report                            func(report)
	wantsEnd                          bool
}

// Progress says that the work goes on; the note is shown by sluicectl.
func (j *Job) Progress(note string) { j.report(report{kind: 'p', text: note}) }

// Ack says that everything up to and including this entry is finished (batches; single entries are acknowledged by returning).
// An id that is none of this call's changes nothing.
func (j *Job) Ack(id string) { j.report(report{kind: 'a', text: id}) }

// Finish ends the lease of an entries stream after this call of the handler.
func (j *Job) Finish() { j.wantsEnd = true }

// Field of an entry. What is not UTF-8 is there as it is.
type Field struct{ Name, Value string }

// Entry of a data stream. Fields in their order, duplicates kept.
type Entry struct {
	ID     string
	Tries  int
	Fields []Field
}

// Get is the value of the last field of that name, "" when there is none.
func (e *Entry) Get(name string) string {
	for i := len(e.Fields) - 1; i >= 0; i-- {
		if e.Fields[i].Name == name {
			return e.Fields[i].Value
		}
	}
	return ""
}

// Worker takes streams from sluiced. Fields may be set before Run.
type Worker struct {
	Socket        string // "": $SLUICED_WORKER, else /run/sluiced/worker.sock
	Credits       int    // streams in work at once
	Name          string // shown by sluicectl; default: program@host:pid, host = $POD_NAME if set
	Services      []string
	OnTermRelease bool                             // at SIGTERM give back what is not finished, uncounted, instead of finishing it
	Log           func(format string, args ...any) // default: the log package

	stream func(context.Context, *Job) error
	each   func(context.Context, *Job, *Entry) error
	batch  func(context.Context, *Job, []Entry) error
	stop   chan struct{}
	once   sync.Once
}

func newWorker(socket string, credits int) *Worker {
	if socket == "" {
		socket = os.Getenv("SLUICED_WORKER")
	}
	if socket == "" {
		socket = defaultSocket
	}
	host := os.Getenv("POD_NAME")
	if host == "" {
		host, _ = os.Hostname()
	}
	name := fmt.Sprintf("%.50s@%.60s:%d", filepath.Base(os.Args[0]), host, os.Getpid())
	return &Worker{Socket: socket, Credits: credits, Name: name, Log: log.Printf, stop: make(chan struct{})}
}

// New makes a worker whose handler is called once per stream.
func New(socket string, handler func(context.Context, *Job) error, credits int) *Worker {
	w := newWorker(socket, credits)
	w.stream = handler
	return w
}

// NewEntries makes a worker whose handler is called for each entry of a stream, in order.
func NewEntries(socket string, handler func(context.Context, *Job, *Entry) error, credits int) *Worker {
	w := newWorker(socket, credits)
	w.each = handler
	return w
}

// NewBatches makes a worker whose handler gets as many entries of a stream as came together.
func NewBatches(socket string, handler func(context.Context, *Job, []Entry) error, credits int) *Worker {
	w := newWorker(socket, credits)
	w.batch = handler
	return w
}

// Stop: no new work, finish, leave; Run then returns nil. From any goroutine.
func (w *Worker) Stop() { w.once.Do(func() { close(w.stop) }) }

// ---- frames

type frame struct {
	T, Lease, Session, Service, Stream, ID, Token, Code, Msg, For string
	Retry                                                         int
	Info                                                          json.RawMessage
	Trace                                                         map[string]string
	Server                                                        string
	Until                                                         *float64 `json:"until_ms"`
	LeaseMs                                                       float64  `json:"lease_ms"`
	NowMs                                                         *float64 `json:"now_ms"`
	GraceMs                                                       float64  `json:"grace_ms"`
	N                                                             *json.Number
	Resumed                                                       []string
	NotServed                                                     []string `json:"not_served"`
	Gone                                                          []struct{ Lease, Outcome string }
	E                                                             [][]json.RawMessage
	Entries                                                       *json.RawMessage
	Fatal, tooDeep                                                bool
}

// parse reads one line. A field of another type than it should have counts as left out.
func parse(line []byte) (*frame, error) {
	f := &frame{}
	err := json.Unmarshal(line, f)
	var wrongType *json.UnmarshalTypeError
	if err == nil || errors.As(err, &wrongType) {
		return f, nil
	}
	if short := withoutInfo(line); short != nil { // it may nest deeper than encoding/json reads
		f = &frame{tooDeep: true}
		if json.Unmarshal(short, f) == nil {
			return f, nil
		}
	}
	return nil, err
}

// withoutInfo is the object on a line with null for its info, nil when there is none.
func withoutInfo(line []byte) []byte {
	depth, from, isInfo := 0, -1, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '"':
			begin := i
			for i++; i < len(line) && line[i] != '"'; i++ {
				if line[i] == '\\' {
					i++
				}
			}
			isInfo = depth == 1 && from < 0 && i < len(line) && string(line[begin:i+1]) == `"info"`
		case c == ':' && isInfo:
			from, isInfo = i+1, false
		case (c == ',' || c == '}') && depth == 1 && from >= 0:
			return append(append(append([]byte{}, line[:from]...), "null"...), line[i:]...)
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

func text(raw json.RawMessage) string {
	if len(raw) > 0 && raw[0] == '{' {
		var b struct{ B64 []byte }
		var s struct{ B64 string }
		if json.Unmarshal(raw, &b) != nil && json.Unmarshal(raw, &s) == nil {
			b.B64, _ = base64.StdEncoding.DecodeString(s.B64)
		}
		return string(b.B64)
	}
	var s string
	_ = json.Unmarshal(raw, &s)
	return s
}

func entriesOf(rows [][]json.RawMessage) []Entry {
	out := make([]Entry, 0, len(rows))
	for _, row := range rows {
		if len(row) < 2 {
			continue
		}
		e, flat := Entry{ID: text(row[0])}, []json.RawMessage{}
		_ = json.Unmarshal(row[1], &flat)
		for i := 0; i+1 < len(flat); i += 2 {
			e.Fields = append(e.Fields, Field{text(flat[i]), text(flat[i+1])})
		}
		if len(row) > 2 {
			_ = json.Unmarshal(row[2], &e.Tries)
		}
		out = append(out, e)
	}
	return out
}

// after compares entry ids by their numbers; every id is after "".
func after(a, b string) bool {
	if b == "" {
		return true
	}
	am, as := idNumbers(a)
	bm, bs := idNumbers(b)
	return am > bm || am == bm && as > bs
}

func idNumbers(id string) (ms, seq uint64) {
	left, right, _ := strings.Cut(id, "-")
	ms, _ = strconv.ParseUint(left, 10, 64)
	seq, _ = strconv.ParseUint(right, 10, 64)
	return ms, seq
}

// clean is what may stand in a frame: valid UTF-8, at most 1 KiB.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > reasonBytes {
		s = strings.ToValidUTF8(s[:reasonBytes], "")
	}
	return s
}

// nowMs is CLOCK_MONOTONIC, the clock of until_ms.
func nowMs() float64 {
	var t syscall.Timespec
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&t)), 0)
	return float64(t.Nano()) / 1e6
}

// ---- the connection and what is held

type report struct {
	lease *lease
	kind  byte   // p progress, a acknowledged, d done, s stopped, e failed
	text  string // note, id
	err   error
}

type message map[string]any

type lease struct {
	name     string
	job      *Job
	isFeed   bool
	cancel   context.CancelFunc
	isBusy   bool // a call of the handler is under way
	isTold   bool // to stop, by stopBy
	isQuiet  bool // nobody waits for an answer
	stopBy   float64
	result   message // to be told until it is confirmed
	queue    [][]Entry
	current  []Entry         // the call's
	given    map[string]bool // their ids
	finished string          // entries: the last id that is
	acked    string          // entries: the last id that was acknowledged over this connection
	barrier  bool            // entries: a nack is on its way, what comes before its ok is void
	last     message         // the result, as soon as no call is under way
}

type line struct {
	conn net.Conn
	data []byte // nil: the end of the connection
}

type engine struct {
	w             *Worker
	leases        map[string]*lease
	reports       chan report
	lines         chan line
	dialed        chan net.Conn
	done          chan struct{} // closed when Run returns
	conn          net.Conn
	out           *writer
	isWelcome     bool
	helloAt       float64
	session       string
	until, fenced float64
	lead          float64
	pause         time.Duration
	isLeaving     bool
	isOver        bool
	said          string // why there is no session
	err           error
	acks          map[*lease]bool
	misfits       map[string]bool // services without entries, or with them, that were said
}

// Run returns nil when the worker has left after Stop or a signal, an *Error when it cannot go on.
func (w *Worker) Run() error {
	e := &engine{w: w, leases: map[string]*lease{}, acks: map[*lease]bool{}, misfits: map[string]bool{}, reports: make(chan report, 256), lines: make(chan line, 256),
		dialed: make(chan net.Conn), done: make(chan struct{}), lead: 300, pause: pauseFirst}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	e.dial(0)
	stop, timer := w.stop, time.NewTimer(time.Hour)
	for !e.isOver {
		timer.Reset(e.wait())
		select {
		case <-signals:
			e.leave()
		case <-stop:
			stop = nil
			e.leave()
		case c := <-e.dialed:
			e.connected(c)
		case l := <-e.lines:
			e.onLine(l)
		case r := <-e.reports:
			e.reported(r)
		case <-timer.C:
		}
		for more := true; more && !e.isOver; { // what has come meanwhile
			select {
			case l := <-e.lines:
				e.onLine(l)
			case r := <-e.reports:
				e.reported(r)
			default:
				more = false
			}
		}
		e.lookAtTheTime()
		for x := range e.acks {
			e.ack(x)
		}
		if e.out != nil {
			e.out.flush()
		}
	}
	e.disconnect()
	close(e.done)
	return e.err
}

// Main is Run for a program that does nothing else: it ends with status 1, and a line that says why, when Run fails.
func (w *Worker) Main() {
	if err := w.Run(); err != nil {
		log.Fatal("sluice: ", err)
	}
}

// post is how handlers reach the loop of Run.
func (e *engine) post(r report) {
	select {
	case e.reports <- r:
	case <-e.done:
	}
}

func (e *engine) wait() time.Duration {
	at := nowMs() + 3.6e6
	for _, x := range e.leases {
		if x.isTold && x.isBusy && x.stopBy < at {
			at = x.stopBy
		}
	}
	if e.until != e.fenced && e.until-e.lead < at {
		at = e.until - e.lead
	}
	if e.isLeaving && !e.isWelcome && e.until > nowMs() && e.until < at {
		at = e.until
	}
	d := time.Duration((at - nowMs()) * 1e6)
	if d < 0 {
		d = 0
	}
	return d
}

func (e *engine) lookAtTheTime() {
	now := nowMs()
	if e.until != 0 && e.until != e.fenced && now >= e.until-e.lead {
		e.fenced = e.until
		for _, x := range e.leases {
			if !x.isTold && x.result == nil {
				e.stopWork(x, e.until)
			}
		}
	}
	isBusy := false
	for _, x := range e.leases {
		isBusy = isBusy || x.isBusy
		if x.isTold && x.isBusy && now >= x.stopBy {
			fmt.Fprintf(os.Stderr, "sluice: the handler of %s did not stop in time: this process ends\n", x.job.Stream)
			os.Exit(exitNotStopped)
		}
	}
	if e.isLeaving && !e.isWelcome {
		if len(e.leases) > 0 && now >= e.until && !isBusy && e.err == nil {
			e.giveUp("unconfirmed", fmt.Sprintf("%d results were not confirmed: the daemon is away", len(e.leases)))
		}
		e.isOver = e.isOver || len(e.leases) == 0
	}
}

// giveUp: Run returns the error as soon as no handler is at work any more.
func (e *engine) giveUp(code, msg string) {
	e.err, e.isLeaving = &Error{code, msg}, true
	e.disconnect()
	for _, x := range e.leases {
		e.lose(x)
	}
}

// ---- the socket

func (e *engine) dial(after time.Duration) {
	go func() {
		time.Sleep(after)
		c, err := net.Dial("unix", e.w.Socket)
		if err != nil {
			c = nil
		}
		select {
		case e.dialed <- c:
		case <-e.done:
			if c != nil {
				c.Close()
			}
		}
	}()
}

func (e *engine) later() {
	if e.err != nil {
		return
	}
	e.dial(e.pause)
	if e.pause *= 2; e.pause > pauseMost {
		e.pause = pauseMost
	}
}

// trouble says why there is no session: once, until there is one.
func (e *engine) trouble(text string) {
	if e.said != text {
		e.w.Log("%s", text)
	}
	e.said = text
}

func (e *engine) connected(c net.Conn) {
	if c == nil {
		e.trouble(fmt.Sprintf("sluice: %s does not answer; trying until it does", e.w.Socket))
		e.later()
		return
	}
	e.conn, e.out = c, newWriter(c)
	go func() {
		r := bufio.NewReaderSize(c, 1<<16)
		for {
			data, err := r.ReadBytes('\n')
			if err != nil { // half a frame is none
				data = nil
			} else if data = bytes.TrimSpace(data); len(data) == 0 {
				continue
			}
			select {
			case e.lines <- line{c, data}:
			case <-e.done:
				return
			}
			if data == nil {
				return
			}
		}
	}()
	hello := message{"t": "hello", "v": 1, "name": e.w.Name, "credits": e.w.Credits}
	if e.isLeaving {
		hello["credits"] = 0
	}
	if e.w.Services != nil {
		hello["services"] = e.w.Services
	}
	if e.w.stream == nil {
		hello["entries"] = true
	}
	if e.session != "" {
		resume := []string{}
		for name, x := range e.leases {
			if !x.isQuiet {
				resume = append(resume, name)
			}
		}
		hello["session"], hello["resume"] = e.session, resume
	}
	e.helloAt = nowMs()
	e.send(hello)
}

func (e *engine) disconnect() {
	if e.conn != nil {
		e.out.close()
	}
	e.conn, e.out, e.isWelcome = nil, nil, false
}

func (e *engine) send(m message) {
	if e.out == nil {
		return
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(m) == nil { // ends with LF
		e.out.add(b.Bytes())
	}
}

// writer keeps what the daemon does not read yet, so that nothing else waits for it.
type writer struct {
	conn           net.Conn
	ended          chan struct{}
	mu             sync.Mutex
	cond           *sync.Cond
	buf            []byte
	isDue, isEnded bool
}

func newWriter(c net.Conn) *writer {
	w := &writer{conn: c, ended: make(chan struct{})}
	w.cond = sync.NewCond(&w.mu)
	go func() {
		w.mu.Lock()
		defer close(w.ended)
		defer c.Close()
		defer w.mu.Unlock()
		for {
			for !(w.isDue && len(w.buf) > 0) && !w.isEnded {
				w.cond.Wait()
			}
			data := w.buf
			w.buf, w.isDue = nil, false
			if len(data) == 0 {
				return
			}
			w.mu.Unlock()
			_, err := c.Write(data)
			w.mu.Lock()
			if err != nil {
				w.buf = nil
				w.isEnded = true
			}
		}
	}()
	return w
}

func (w *writer) add(b []byte) {
	w.mu.Lock()
	if !w.isEnded {
		w.buf = append(w.buf, b...)
	}
	w.mu.Unlock()
}

func (w *writer) size() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.buf)
}

func (w *writer) flush() {
	w.mu.Lock()
	if len(w.buf) > 0 {
		w.isDue = true
		w.cond.Signal()
	}
	w.mu.Unlock()
}

// close lets go what is waiting, for a second at most.
func (w *writer) close() {
	_ = w.conn.SetWriteDeadline(time.Now().Add(time.Second))
	w.mu.Lock()
	w.isEnded = true
	w.cond.Signal()
	w.mu.Unlock()
	<-w.ended
}

// ---- frames

func (e *engine) onLine(l line) {
	if l.conn != e.conn {
		return
	}
	if l.data == nil {
		e.disconnect()
		e.later()
		return
	}
	f, err := parse(l.data)
	if err != nil || f.T == "" {
		e.trouble(fmt.Sprintf("sluice: %s: this is not the worker protocol: %.80q; connecting again", e.w.Socket, l.data))
		e.disconnect()
		e.later()
		return
	}
	if f.Until != nil {
		e.until = *f.Until
	}
	x := e.leases[f.Lease]
	switch f.T {
	case "welcome":
		e.onWelcome(f)
	case "assign":
		e.onAssign(f, x)
	case "entries":
		if x != nil && !x.barrier && !x.isTold && x.result == nil {
			x.queue = append(x.queue, entriesOf(f.E))
			e.pump(x)
		}
	case "ok":
		if x != nil && f.For == "nack" {
			x.barrier, x.queue = false, nil
		} else if x != nil && f.For != "ack" && x.result != nil {
			e.forget(x)
		}
	case "ping":
		e.onPing(f)
	case "revoke":
		if x == nil {
			e.send(message{"t": "revoked", "lease": f.Lease})
		} else if x.result == nil {
			e.stopWork(x, nowMs()+f.GraceMs)
		}
	case "ended":
		if x != nil {
			e.lose(x)
		}
	case "err":
		e.onErr(f, x)
	}
}

func (e *engine) onPing(f *frame) {
	pong := message{"t": "pong"}
	if f.N != nil {
		pong["n"] = *f.N
	}
	e.send(pong)
}

func (e *engine) onWelcome(f *frame) {
	// it was written between hello and now
	if mine := nowMs(); f.NowMs != nil && (*f.NowMs < e.helloAt-f.LeaseMs || *f.NowMs > mine+f.LeaseMs) {
		e.send(message{"t": "bye"})
		e.giveUp("clock", fmt.Sprintf("this worker's monotonic clock says %.0f ms, the daemon's %.0f ms: they share no clock "+
			"(another host, or a time namespace), so no fence could hold", mine, *f.NowMs))
		return
	}
	if f.NowMs == nil && e.w.stream == nil { // 0.1 would ignore that we want entries, and assign streams without end
		e.send(message{"t": "bye"})
		e.giveUp("bad_version", f.Server+" is older than entries mode, which came with sluiced 0.2")
		return
	}
	for _, name := range f.NotServed {
		if !e.misfits[name] {
			e.misfits[name] = true
			e.w.Log("sluice: %s is in entries mode: this worker takes no entries, so it gets nothing of it", name)
		}
	}
	e.session, e.isWelcome, e.pause, e.said = f.Session, true, pauseFirst, ""
	e.lead = f.LeaseMs / 10
	if e.lead > 500 {
		e.lead = 500
	}
	resumed, outcome := map[string]bool{}, map[string]string{}
	for _, name := range f.Resumed {
		resumed[name] = true
	}
	for _, g := range f.Gone {
		outcome[g.Lease] = g.Outcome
	}
	for name, x := range e.leases {
		if resumed[name] {
			e.resume(x)
			continue
		}
		if x.result != nil && outcome[name] == "lost" {
			e.w.Log("sluice: %s: the result was not accepted, the stream was lost", x.job.Stream)
		}
		e.lose(x)
	}
	if e.isLeaving {
		e.send(message{"t": "credits", "n": 0})
	}
	e.maybeLeave()
}

func (e *engine) resume(x *lease) {
	x.barrier, x.acked, x.queue = false, "", nil // its entries come again
	e.ack(x)
	if x.result != nil {
		e.tell(x)
	}
}

func (e *engine) onAssign(f *frame, x *lease) {
	if x != nil {
		return
	}
	if e.isLeaving {
		e.send(message{"t": "release", "lease": f.Lease})
		return
	}
	job := &Job{Lease: f.Lease, Service: f.Service, Stream: f.Stream, ID: f.ID, Token: f.Token, Retry: f.Retry, Info: f.Info, Trace: f.Trace}
	x = &lease{name: f.Lease, job: job, isFeed: e.w.stream == nil}
	job.report = func(r report) {
		r.lease = x
		e.post(r)
	}
	e.leases[x.name] = x
	switch {
	case f.tooDeep:
		e.end(x, message{"t": "fail", "reason": "info is nested deeper than this worker can read"})
	case e.until != 0 && nowMs() >= e.until-e.lead:
		e.end(x, message{"t": "revoked"}) // read too late: it never begins
	case x.isFeed && f.Entries == nil:
		// somebody else must work on it: it comes back after a while, so that a backlog of them does not go round and round
		if !e.misfits[f.Service] {
			e.misfits[f.Service] = true
			e.w.Log("sluice: %s is a service without entries: its streams are given back for 30 s each; name the Services of this worker", f.Service)
		}
		e.end(x, message{"t": "release", "retry_ms": 30000})
	case !x.isFeed:
		e.begin(x, nil)
	}
}

func (e *engine) onErr(f *frame, x *lease) {
	if f.Fatal {
		e.trouble(fmt.Sprintf("sluiced: %s: %s", f.Code, f.Msg))
	} else {
		e.w.Log("sluiced: %s: %s", f.Code, f.Msg)
	}
	switch f.Code {
	case "bad_version", "bad_hello", "unauthorized":
		e.giveUp(f.Code, f.Msg)
	case "not_owner", "unknown_lease":
		if x != nil {
			e.lose(x)
		}
	case "bad_field":
		if x != nil && x.result != nil {
			e.lose(x)
		} else if x != nil && x.barrier { // no answer to the nack will come
			e.end(x, message{"t": "release"})
		}
	}
}

// ---- handlers

func (e *engine) begin(x *lease, entries []Entry) {
	ctx, cancel := context.WithCancel(context.Background())
	x.isBusy, x.cancel = true, cancel
	x.current, x.given, x.job.wantsEnd = entries, make(map[string]bool, len(entries)), false
	for i := range entries {
		x.given[entries[i].ID] = true
	}
	go func() {
		err := call(e.w, ctx, x.job, entries)
		r := report{lease: x, kind: 'd', err: err}
		if ctx.Err() != nil { // who was told to stop may have returned early, with or without an error
			r.kind = 's'
		} else if err != nil {
			r.kind = 'e'
		}
		cancel()
		e.post(r)
	}()
}

func call(w *Worker, ctx context.Context, job *Job, entries []Entry) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	switch {
	case w.stream != nil:
		return w.stream(ctx, job)
	case w.batch != nil:
		if err = w.batch(ctx, job, entries); err == nil && ctx.Err() == nil {
			job.Ack(entries[len(entries)-1].ID)
		}
		return err
	}
	for i := range entries {
		if ctx.Err() != nil {
			return nil
		}
		if err = w.each(ctx, job, &entries[i]); err != nil {
			var f *Fail
			if !errors.As(err, &f) || f.ID != "" {
				f = nil
			}
			var r *Release
			switch {
			case errors.As(err, &r):
			case f != nil:
				return &Fail{f.Reason, f.Dead, f.RetryMs, entries[i].ID}
			default:
				return &Fail{Reason: err.Error(), ID: entries[i].ID}
			}
			return err
		}
		job.Ack(entries[i].ID)
	}
	return nil
}

// pump begins the next call for a stream's entries.
func (e *engine) pump(x *lease) {
	for !x.isBusy && len(x.queue) > 0 && x.last == nil {
		rows := x.queue[0]
		x.queue = x.queue[1:]
		for len(rows) > 0 && !after(rows[0].ID, x.finished) {
			rows = rows[1:]
		}
		if len(rows) > 0 {
			e.begin(x, rows)
			return
		}
		x.acked = "" // it came again after all was finished
		e.ack(x)
	}
	if x.last != nil && !x.isBusy && x.result == nil {
		e.end(x, x.last)
	}
}

func (e *engine) ack(x *lease) {
	delete(e.acks, x)
	if e.isWelcome && x.finished != "" && x.acked != x.finished {
		x.acked = x.finished
		e.send(message{"t": "ack", "lease": x.name, "id": x.finished})
	}
}

func (e *engine) reported(r report) {
	x := r.lease
	switch r.kind {
	case 'p':
		if e.isWelcome && !x.isQuiet && e.out.size() < progressRoom {
			m := message{"t": "progress", "lease": x.name}
			if r.text != "" {
				m["note"] = clean(r.text)
			}
			e.send(m)
		}
		return
	case 'a':
		if !x.isUnfinished(r.text) {
			return
		}
		x.finished = r.text
		if !x.isQuiet {
			e.acks[x] = true
		}
		return
	}
	x.isBusy = false
	if x.isQuiet {
		e.forget(x)
		return
	}
	if r.kind == 's' || x.isTold && (r.kind != 'd' || x.isFeed) {
		e.stopped(x)
		return
	}
	if x.isFeed {
		e.entriesEnded(x, r)
		return
	}
	e.end(x, outcome(r.err))
}

// outcome is the frame that a handler's error stands for.
func outcome(err error) message {
	var f *Fail
	var back *Release
	switch {
	case err == nil:
		return message{"t": "done"}
	case errors.As(err, &back):
		return withRetry(message{"t": "release"}, back.RetryMs)
	case errors.As(err, &f):
		m := withRetry(message{"t": "fail", "reason": clean(f.Reason)}, f.RetryMs)
		if f.Dead {
			m["dead"] = true
		}
		return m
	}
	return message{"t": "fail", "reason": clean(err.Error())}
}

func withRetry(m message, ms *int64) message {
	if ms != nil {
		m["retry_ms"] = *ms
		if *ms < 0 {
			m["retry_ms"] = 0
		} else if *ms > retryMsMost {
			m["retry_ms"] = retryMsMost
		}
	}
	return m
}

func (e *engine) entriesEnded(x *lease, r report) {
	e.ack(x)
	m := outcome(r.err)
	switch m["t"] {
	case "release":
		x.last = m
	case "fail":
		m["t"], m["lease"] = "nack", x.name
		var f *Fail
		if errors.As(r.err, &f) && x.isUnfinished(f.ID) {
			m["id"] = f.ID
		} else { // it is held against the first that is not finished
			for _, entry := range x.current {
				if m["id"] == nil && after(entry.ID, x.finished) {
					m["id"] = entry.ID
				}
			}
		}
		if m["id"] != nil {
			x.barrier, x.queue = true, nil
			e.send(m)
		}
	default:
		if x.job.wantsEnd {
			x.last = message{"t": "done"}
		}
	}
	if e.isLeaving && x.last == nil {
		x.last = message{"t": "release"}
	}
	e.pump(x)
}

// isUnfinished: one of the entries of the call under way, and not finished yet.
func (x *lease) isUnfinished(id string) bool {
	return x.given[id] && after(id, x.finished)
}

// ---- a lease's way to its end

// stopWork asks now; what has not ended by then ends the process.
func (e *engine) stopWork(x *lease, by float64) {
	if e.until != 0 && e.until < by {
		by = e.until
	}
	if x.isTold {
		if by < x.stopBy {
			x.stopBy = by
		}
		return
	}
	x.isTold, x.stopBy = true, by
	if x.isBusy {
		x.cancel()
	} else {
		e.stopped(x)
	}
}

func (e *engine) stopped(x *lease) {
	e.ack(x)
	if x.last != nil && x.last["t"] == "release" {
		e.end(x, x.last)
	} else {
		e.end(x, message{"t": "revoked"})
	}
}

// lose: not ours any more, and nobody waits for an answer.
func (e *engine) lose(x *lease) {
	x.isQuiet = true
	if x.isBusy {
		e.stopWork(x, nowMs()+e.lead)
	} else {
		e.forget(x)
	}
}

func (e *engine) end(x *lease, m message) {
	x.result = m
	m["lease"] = x.name
	if e.isWelcome {
		e.tell(x)
	}
}

func (e *engine) tell(x *lease) {
	e.send(x.result)
	if x.result["t"] == "revoked" { // gets no answer
		e.forget(x)
	}
}

func (e *engine) forget(x *lease) {
	delete(e.leases, x.name)
	delete(e.acks, x)
	e.maybeLeave()
}

func (e *engine) leave() {
	if e.isLeaving {
		return
	}
	e.isLeaving = true
	if e.isWelcome {
		e.send(message{"t": "credits", "n": 0})
	}
	for _, x := range e.leases {
		switch {
		case x.result != nil:
		case e.w.OnTermRelease:
			x.last = message{"t": "release"}
			e.stopWork(x, nowMs()+5000)
		case x.isFeed:
			x.last = message{"t": "release"} // after the call that is under way
			e.pump(x)
		}
	}
	e.maybeLeave()
}

func (e *engine) maybeLeave() {
	if e.isLeaving && len(e.leases) == 0 && e.isWelcome && !e.isOver {
		e.send(message{"t": "bye"})
		e.isOver = true
	}
}
