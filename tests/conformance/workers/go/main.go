// The Go client under the conformance suite: its handler does what `info` says (README.md).
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"
	"unicode/utf8"
	"unsafe"

	sluice "github.com/sluiced/sluiced/etc/clients/go"
)

type instructions struct {
	Ack          []string
	Progress     int
	Sleep, Block float64
	Raise        *string
	Fail         *string
	Dead         bool
	RetryMs      *int64 `json:"retry_ms"`
	Release      bool
	Done         bool
}

var journal *os.File

func note(e string, job *sluice.Job, more map[string]any) {
	var t syscall.Timespec
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&t)), 0)
	row := map[string]any{"ms": float64(t.Nano()) / 1e6, "e": e, "stream": job.Stream, "token": job.Token}
	for k, v := range more {
		row[k] = v
	}
	line, _ := json.Marshal(row)
	_, _ = journal.Write(append(line, '\n'))
}

func pause(do *instructions, ctx context.Context, job *sluice.Job, more map[string]any) error {
	for _, id := range do.Ack {
		job.Ack(id)
	}
	for i := 0; i < do.Progress; i++ {
		job.Progress("note " + strconv.Itoa(i))
	}
	end := time.Now().Add(time.Duration((do.Sleep + do.Block) * 1e9))
	for left := time.Until(end); left > 0; left = time.Until(end) {
		note("tick", job, more)
		if left > 30*time.Millisecond {
			left = 30 * time.Millisecond
		}
		if do.Block > 0 {
			time.Sleep(left)
			continue
		}
		select {
		case <-time.After(left):
		case <-ctx.Done():
			note("stopped", job, more)
			return ctx.Err()
		}
	}
	return nil
}

func act(do *instructions, ctx context.Context, job *sluice.Job, more map[string]any) error {
	if err := pause(do, ctx, job, more); err != nil {
		return err
	}
	switch {
	case do.Raise != nil:
		return errors.New(*do.Raise)
	case do.Fail != nil:
		return &sluice.Fail{Reason: *do.Fail, Dead: do.Dead, RetryMs: do.RetryMs}
	case do.Release:
		return &sluice.Release{RetryMs: do.RetryMs}
	}
	if do.Done {
		job.Finish()
	}
	note("end", job, more)
	return nil
}

func work(ctx context.Context, job *sluice.Job) error {
	do := &instructions{}
	_ = json.Unmarshal(job.Info, do)
	note("begin", job, map[string]any{"service": job.Service, "id": job.ID, "retry": job.Retry, "info": job.Info, "trace": job.Trace})
	return act(do, ctx, job, nil)
}

func plain(s string) any {
	if utf8.ValidString(s) {
		return s
	}
	return map[string]string{"bytes": hex.EncodeToString([]byte(s))}
}

func workEntry(ctx context.Context, job *sluice.Job, e *sluice.Entry) error {
	do, fields := &instructions{}, [][]any{}
	_ = json.Unmarshal([]byte(e.Get("do")), do)
	for _, f := range e.Fields {
		fields = append(fields, []any{plain(f.Name), plain(f.Value)})
	}
	note("entry", job, map[string]any{"entry": e.ID, "tries": e.Tries, "fields": fields})
	return act(do, ctx, job, map[string]any{"entry": e.ID})
}

func workBatch(ctx context.Context, job *sluice.Job, entries []sluice.Entry) error {
	for i := range entries {
		if err := workEntry(ctx, job, &entries[i]); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	journal, _ = os.OpenFile(os.Getenv("CONF_JOURNAL"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	credits, _ := strconv.Atoi(os.Getenv("CONF_CREDITS"))
	w := sluice.New("", work, credits)
	switch os.Getenv("CONF_ENTRIES") {
	case "each":
		w = sluice.NewEntries("", workEntry, credits)
	case "batch":
		w = sluice.NewBatches("", workBatch, credits)
	}
	w.OnTermRelease = os.Getenv("CONF_ON_TERM") == "release"
	w.Main()
}
