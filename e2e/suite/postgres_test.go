package suite

// PostgreSQL: the client speaks first, in a protocol that is neither TLS nor HTTP, and may ask for TLS in
// words of its own.

import (
	"strings"
	"testing"
)

func TestPostgreSQL(t *testing.T) {
	const connection = "host=server user=shop password=secret dbname=postgres connect_timeout=10"
	psql := func(args ...string) []string {
		return append([]string{"psql", connection, "-v", "ON_ERROR_STOP=1", "-At"}, args...)
	}
	talk := meet(t, "e2e-postgres", Pair{
		Server: postgresImage, Client: postgresImage,
		Command: []string{"/usr/bin/sh", "-ec", `
			echo secret > /tmp/password
			initdb -D /data/db -U shop --no-locale --encoding=UTF8 --auth=scram-sha-256 --pwfile=/tmp/password
			echo "host all all all scram-sha-256" >> /data/db/pg_hba.conf
			exec postgres -D /data/db -c listen_addresses=* -c unix_socket_directories=/tmp -c fsync=off`},
		Ports: []Port{{"tcp-postgresql", 5432}},
		Hello: psql("-c", "select 1"),
	})
	t.Run("a question", func(t *testing.T) {
		if got := talk.says(t, psql("-c", "select 6 * 7")...); got != "42\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("a wrong password", func(t *testing.T) {
		text, err := talk.try(t, "psql", strings.Replace(connection, "secret", "guess", 1), "-c", "select 1")
		if err == nil || !strings.Contains(err.Error(), "password authentication failed") {
			t.Errorf("%q, %v", text, err)
		}
	})
	t.Run("a large answer", func(t *testing.T) {
		got := talk.says(t, psql("-c", "copy (select repeat('x', 1000) from generate_series(1, 5000)) to stdout")...)
		if len(got) != 5000*1001 || strings.Trim(got, "x\n") != "" {
			t.Errorf("%d bytes", len(got))
		}
	})
	// The server is silent for longer than anybody looks for a protocol.
	t.Run("a late answer", func(t *testing.T) {
		if got := talk.says(t, psql("-c", "select pg_sleep(12)", "-c", "select 'late'")...); got != "\nlate\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("many transactions", func(t *testing.T) {
		talk.says(t, "pgbench", connection, "-i", "-q", "-s", "1")
		got := talk.says(t, "pgbench", connection, "-c", "8", "-t", "100", "-j", "2")
		if !strings.Contains(got, "number of transactions actually processed: 800/800") || !strings.Contains(got, "number of failed transactions: 0 ") {
			t.Error(got)
		}
	})
	talk.postQuantum(t)
}
