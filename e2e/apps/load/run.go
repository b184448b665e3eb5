package main

// Workers that ask over and over, and the sum of what they saw.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Result is what load run prints.
type Result struct {
	Sent   int64 `json:"sent"`
	Failed int64 `json:"failed"`
	// Opened counts connections that were made, Closed those that the other side ended.
	Opened int64            `json:"opened"`
	Closed int64            `json:"closed"`
	Errors map[string]int64 `json:"errors,omitempty"`
	P50    float64          `json:"p50ms"`
	P99    float64          `json:"p99ms"`
	// Took is in seconds, from the first request to the last answer.
	Took float64 `json:"seconds"`
	Last string  `json:"last"`
}

type tally struct {
	mutex   sync.Mutex
	result  Result
	latency []time.Duration
	first   sync.WaitGroup
}

func (t *tally) asked(took time.Duration, answer string, err error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.result.Sent++
	if err != nil {
		t.result.Failed++
		t.fault(err)
		return
	}
	t.result.Last = answer
	t.latency = append(t.latency, took)
}

func (t *tally) fault(err error) {
	if t.result.Errors == nil {
		t.result.Errors = map[string]int64{}
	}
	if text := err.Error(); len(t.result.Errors) < 20 || t.result.Errors[text] > 0 {
		t.result.Errors[text]++
	}
}

type plan struct {
	count   int
	rate    int
	pause   time.Duration
	fresh   bool
	timeout time.Duration
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	workers := flags.Int("workers", 1, "workers for each target")
	count := flags.Int("count", 100, "requests of each worker; 0 means until standard input ends")
	rate := flags.Int("rate", 0, "requests a second for each target, however long answers take; 0 means that workers wait for them")
	pause := flags.Duration("pause", 0, "between two requests of a worker")
	fresh := flags.Bool("fresh", false, "a new connection for each request")
	timeout := flags.Duration("timeout", 10*time.Second, "for each request")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("run takes at least one target")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if *count == 0 {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}

	total := &tally{}
	begin := time.Now()
	wanted := plan{*count, *rate, *pause, *fresh, *timeout}
	var all sync.WaitGroup
	for _, target := range flags.Args() {
		work := web
		if strings.HasPrefix(target, "tcp://") {
			work = line
		} else if !strings.HasPrefix(target, "http://") {
			return fmt.Errorf("target %q: write http://... or tcp://host:port", target)
		}
		if *rate > 0 {
			if strings.HasPrefix(target, "tcp://") {
				return fmt.Errorf("target %q: only http://... is asked at a rate", target)
			}
			*workers = 1
		}
		for range *workers {
			total.first.Add(1)
			all.Go(func() { work(ctx, target, wanted, total) })
		}
	}
	go func() {
		total.first.Wait()
		fmt.Fprintln(os.Stderr, "started")
	}()
	all.Wait()

	total.result.Took = time.Since(begin).Seconds()
	slices.Sort(total.latency)
	if n := len(total.latency); n > 0 {
		total.result.P50 = float64(total.latency[n/2].Microseconds()) / 1000
		total.result.P99 = float64(total.latency[n*99/100].Microseconds()) / 1000
	}
	return json.NewEncoder(os.Stdout).Encode(total.result)
}

// under is how many requests may be under way at a rate: more than that, and nobody answers any more.
const under = 4096

// pour calls ask at a rate, in time even where answers are late: clients that do not know of one another do not
// wait for one another. What was due is counted from then on, not from when it was sent.
func pour(ctx context.Context, wanted plan, total *tally, ask func(context.Context) (string, error)) {
	var once sync.Once
	started := func() { once.Do(total.first.Done) }
	defer started()
	places := make(chan struct{}, under)
	var all sync.WaitGroup
	defer all.Wait()
	begin := time.Now()
	for i := 0; wanted.count == 0 || i < wanted.count; i++ {
		due := begin.Add(time.Duration(i) * time.Second / time.Duration(wanted.rate))
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(due)):
		}
		select {
		case places <- struct{}{}:
		default:
			total.asked(0, "", errors.New("too many requests are under way"))
			continue
		}
		all.Go(func() {
			defer func() { <-places }()
			one, cancel := context.WithTimeout(context.WithoutCancel(ctx), wanted.timeout)
			defer cancel()
			answer, err := ask(one)
			total.asked(time.Since(due), answer, err)
			started()
		})
	}
}

// repeat calls ask as often as planned; what ends together with the whole run is no failure.
func repeat(ctx context.Context, wanted plan, total *tally, ask func(context.Context) (string, error)) {
	if wanted.rate > 0 {
		pour(ctx, wanted, total, ask)
		return
	}
	var once sync.Once
	started := func() { once.Do(total.first.Done) }
	defer started()
	for i := 0; wanted.count == 0 || i < wanted.count; i++ {
		one, cancel := context.WithTimeout(context.WithoutCancel(ctx), wanted.timeout)
		begin := time.Now()
		answer, err := ask(one)
		cancel()
		total.asked(time.Since(begin), answer, err)
		started()
		select {
		case <-ctx.Done():
			return
		case <-time.After(wanted.pause):
		}
	}
}

// web asks over one connection of its own, which HTTP keeps open; at a rate, over as many as it takes.
func web(ctx context.Context, target string, wanted plan, total *tally) {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	transport := &http.Transport{
		DisableKeepAlives: wanted.fresh,
		// At a rate, as many as are needed are kept.
		MaxIdleConnsPerHost: under,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			connection, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			atomic.AddInt64(&total.result.Opened, 1)
			return &watched{Conn: connection, closed: &total.result.Closed}, nil
		},
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	repeat(ctx, wanted, total, func(ctx context.Context) (string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		if err != nil {
			return "", err
		}
		answer, err := client.Do(request)
		if err != nil {
			return "", err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err == nil && answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %s", answer.Status)
		}
		return string(body), err
	})
}

// line keeps one connection for all its requests, and makes another only when that one was ended.
func line(ctx context.Context, target string, wanted plan, total *tally) {
	address := strings.TrimPrefix(target, "tcp://")
	var connection net.Conn
	var lines *bufio.Reader
	hang := func() {
		if connection != nil {
			connection.Close()
			connection = nil
		}
	}
	defer hang()
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	repeat(ctx, wanted, total, func(ctx context.Context) (string, error) {
		if connection == nil {
			dialed, err := dialer.DialContext(ctx, "tcp", address)
			if err != nil {
				return "", err
			}
			atomic.AddInt64(&total.result.Opened, 1)
			connection, lines = &watched{Conn: dialed, closed: &total.result.Closed}, nil
		}
		deadline, _ := ctx.Deadline()
		if err := connection.SetDeadline(deadline); err != nil {
			return "", err
		}
		if lines == nil {
			lines = bufio.NewReader(connection)
			if _, err := lines.ReadString('\n'); err != nil {
				hang()
				return "", fmt.Errorf("greeting: %w", err)
			}
		}
		if _, err := fmt.Fprintln(connection, "PING x"); err != nil {
			hang()
			return "", err
		}
		answer, err := lines.ReadString('\n')
		if err != nil {
			hang()
			return "", err
		}
		if wanted.fresh {
			hang()
		}
		return strings.TrimSpace(answer), nil
	})
}

// watched counts when the other side ends a connection.
type watched struct {
	net.Conn
	closed *int64
	once   sync.Once
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.once.Do(func() { atomic.AddInt64(w.closed, 1) })
	}
	return n, err
}
