// A worker whose handler does nothing, for the bench beside this.
package main

import (
	"context"
	"os"
	"strconv"

	sluice "github.com/sluiced/sluiced/etc/clients/go"
)

func main() {
	credits, _ := strconv.Atoi(os.Getenv("BENCH_CREDITS"))
	w := sluice.New("", func(context.Context, *sluice.Job) error { return nil }, credits)
	if os.Getenv("BENCH_ENTRIES") != "" {
		w = sluice.NewBatches("", func(context.Context, *sluice.Job, []sluice.Entry) error { return nil }, credits)
	}
	w.Main()
}
