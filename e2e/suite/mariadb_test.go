package suite

// MariaDB: the server speaks first, and the client waits for that.

import (
	"strings"
	"testing"
)

func TestMariaDB(t *testing.T) {
	ask := func(question string) []string {
		return []string{"mariadb", "--no-defaults", "-h", "server", "--connect-timeout=10", "-N", "-B", "-e", question}
	}
	talk := meet(t, "e2e-mariadb", Pair{
		Server: mariadbImage, Client: mariadbImage,
		// Without tables of privileges it lets everybody in; the greeting is the same.
		Command: []string{
			"/usr/sbin/mariadbd", "--no-defaults", "--skip-grant-tables", "--datadir=/data", "--socket=/tmp/sock",
			"--pid-file=/tmp/pid", "--innodb-use-native-aio=0", "--innodb-buffer-pool-size=16M", "--skip-name-resolve",
		},
		Ports: []Port{{"mysql", 3306}},
		Hello: ask("select 1"),
	})
	t.Run("a question", func(t *testing.T) {
		if got := talk.says(t, ask("select 6 * 7")...); got != "42\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("tables", func(t *testing.T) {
		got := talk.says(t, ask("create database shop; use shop; create table lamp (id int auto_increment primary key, name varchar(20)) engine=innodb;"+
			"insert into lamp (name) values ('blue'), ('red'); select count(*), max(name) from lamp")...)
		if got != "2\tred\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("a large answer", func(t *testing.T) {
		got := talk.says(t, ask("with recursive n as (select 1 i union all select i + 1 from n where i < 1000) select repeat('x', 5000) from n")...)
		if len(got) != 1000*5001 || strings.Trim(got, "x\n") != "" {
			t.Errorf("%d bytes", len(got))
		}
	})
	t.Run("a late answer", func(t *testing.T) {
		if got := talk.says(t, ask("select sleep(12)")...); got != "0\n" {
			t.Errorf("%q", got)
		}
	})
	talk.postQuantum(t)
}
