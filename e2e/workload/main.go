// An application that does its own TLS, with other people's client of the SPIFFE Workload API: it serves,
// or calls, by mutual TLS with whatever identity the socket gives it, and says on its standard output what
// happens, a JSON document a line.
//
//	peer serve ADDRESS PEER   answers each line of each connection, as long as PEER is at the other end
//	peer call ADDRESS PEER    at each line of its standard input asks once on the connection that it keeps,
//	                          and once on a fresh one
//	peer watch                only says what it is given
//
// PEER is the SPIFFE ID of whom it talks to; the socket is where SPIFFE_ENDPOINT_SOCKET says.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// How long one exchange may take.
const patience = 10 * time.Second

// said is one line of what happens.
type said struct {
	Event   string `json:"event"`
	ID      string `json:"id,omitempty"`
	Serial  string `json:"serial,omitempty"`
	Key     string `json:"key,omitempty"`
	Anchors int    `json:"anchors,omitempty"`
	// Of a call: how the peer saw us, on the connection that is kept and on a fresh one.
	Kept  string `json:"kept,omitempty"`
	Fresh string `json:"fresh,omitempty"`
	Error string `json:"error,omitempty"`
}

var output sync.Mutex

func say(what said) {
	output.Lock()
	defer output.Unlock()
	line, err := json.Marshal(what)
	if err == nil {
		fmt.Println(string(line))
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		say(said{Event: "failed", Error: err.Error()})
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 1 && args[0] == "watch" {
		return watch(ctx)
	}
	if len(args) != 3 || (args[0] != "serve" && args[0] != "call") {
		return errors.New("usage: peer serve ADDRESS PEER | peer call ADDRESS PEER | peer watch")
	}
	peer, err := spiffeid.FromString(args[2])
	if err != nil {
		return fmt.Errorf("PEER: %w", err)
	}
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return fmt.Errorf("the workload API: %w", err)
	}
	defer source.Close()
	go follow(ctx, source)
	if args[0] == "serve" {
		return serve(ctx, source, args[1], peer)
	}
	return call(ctx, source, args[1], peer)
}

// watch says what the library makes of each message, and of each that it can make nothing of.
func watch(ctx context.Context) error {
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.WatchX509Context(ctx, watcher{})
}

type watcher struct{}

func (watcher) OnX509ContextUpdate(update *workloadapi.X509Context) {
	svid := update.DefaultSVID()
	anchors := 0
	if bundle, err := update.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain()); err == nil {
		anchors = len(bundle.X509Authorities())
	}
	leaf := svid.Certificates[0]
	key := leaf.PublicKeyAlgorithm.String()
	say(said{Event: "update", ID: svid.ID.String(), Serial: leaf.SerialNumber.Text(16), Key: key, Anchors: anchors})
}

func (watcher) OnX509ContextWatchError(err error) {
	say(said{Event: "refused", Error: err.Error()})
}

// follow says which identity the source has, now and after each update.
func follow(ctx context.Context, source *workloadapi.X509Source) {
	for {
		svid, err := source.GetX509SVID()
		if err != nil {
			say(said{Event: "failed", Error: err.Error()})
			return
		}
		bundle, err := source.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
		if err != nil {
			say(said{Event: "failed", Error: err.Error()})
			return
		}
		leaf := svid.Certificates[0]
		say(said{
			Event: "update", ID: svid.ID.String(), Serial: leaf.SerialNumber.Text(16),
			Key: leaf.PublicKeyAlgorithm.String(), Anchors: len(bundle.X509Authorities()),
		})
		select {
		case <-ctx.Done():
			return
		case <-source.Updated():
		}
	}
}

func serve(ctx context.Context, source *workloadapi.X509Source, address string, peer spiffeid.ID) error {
	mode := spiffetls.MTLSServerWithSource(tlsconfig.AuthorizeID(peer), source)
	listener, err := spiffetls.ListenWithMode(ctx, "tcp", address, mode)
	if err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		listener.Close()
	}()
	say(said{Event: "listening"})
	for {
		connection, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go answer(connection)
	}
}

// answer tells the peer, for each line, who it was seen to be when the connection was made.
func answer(connection net.Conn) {
	defer connection.Close()
	lines := bufio.NewReader(connection)
	for {
		if _, err := lines.ReadString('\n'); err != nil {
			if !errors.Is(err, io.EOF) {
				say(said{Event: "turned away", Error: err.Error()})
			}
			return
		}
		seen, err := spiffetls.PeerIDFromConn(connection)
		if err != nil {
			say(said{Event: "turned away", Error: err.Error()})
			return
		}
		if _, err := fmt.Fprintln(connection, seen); err != nil {
			return
		}
	}
}

func call(ctx context.Context, source *workloadapi.X509Source, address string, peer spiffeid.ID) error {
	mode := spiffetls.MTLSClientWithSource(tlsconfig.AuthorizeID(peer), source)
	dial := func() (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return spiffetls.DialWithMode(ctx, "tcp", address, mode)
	}
	var kept net.Conn
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		result := said{Event: "called"}
		err := func() (err error) {
			if kept == nil {
				if kept, err = dial(); err != nil {
					return err
				}
			}
			if result.Kept, err = ask(kept); err != nil {
				return fmt.Errorf("on the connection that is kept: %w", err)
			}
			fresh, err := dial()
			if err != nil {
				return err
			}
			defer fresh.Close()
			result.Fresh, err = ask(fresh)
			return err
		}()
		if err != nil {
			result.Error = err.Error()
		}
		say(result)
	}
	return input.Err()
}

func ask(connection net.Conn) (string, error) {
	if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(connection, "who am I?"); err != nil {
		return "", err
	}
	// One line is all that comes, so nothing behind it is lost with the reader.
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return "", err
	}
	return line[:len(line)-1], nil
}
