package suite

// Two operators who do not know of each other.

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"trellis.dev/e2e/suite/bed"
)

// Both ask for a rotation in the same moment, each to another algorithm. Who is refused is told why, and the
// mesh ends where somebody wished it to be whose wish was taken.
func TestTwoOperatorsRotateAtOnce(t *testing.T) {
	membersAre(t)
	before := trust(t)
	client := pod(t, "shop", "client")
	load := underLoad(t, client, []string{"--workers=2", "--fresh", "http://web/healthz", "tcp://orders:7000"}, func() {
		wishes := []string{"ml-dsa-87", "ml-dsa-44"}
		refusals := make([]string, len(wishes))
		var both sync.WaitGroup
		begin := make(chan struct{})
		for i, wish := range wishes {
			both.Go(func() {
				<-begin
				if _, stderr, err := mesh.Trellis(t.Context(), "trust", "rotate", "--to", wish); err != nil {
					refusals[i] = stderr + err.Error()
				}
			})
		}
		close(begin)
		both.Wait()
		var taken []string
		for i, wish := range wishes {
			switch said := refusals[i]; {
			case said == "":
				taken = append(taken, wish)
			case !strings.Contains(said, "somebody else changed it") && !strings.Contains(said, "is under way"):
				t.Errorf("%s was refused without a reason: %s", wish, said)
			}
			t.Logf("to %s: %q", wish, refusals[i])
		}
		if len(taken) == 0 {
			t.Fatal("both were refused")
		}
		// Of two wishes that were taken the later one stands there.
		wish, err := cluster.Run(t.Context(), "get", "trustdomain", "-n", bed.System, "mesh", "-o", "jsonpath={.spec.issuing.algorithm}")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(taken, wish) {
			t.Fatalf("taken were %v, and the wish that stands there is %s", taken, wish)
		}
		settle(t, wish)
		// The chart's own again, which other tests look at.
		t.Log(trustDo(t, "rotate", "--to", "ml-dsa-65", "--wait", "--timeout", "120"))
	})
	if load.Failed != 0 {
		t.Errorf("%d of %d requests failed: %v", load.Failed, load.Sent, load.Errors)
	}
	t.Logf("%d requests, %d failed", load.Sent, load.Failed)
	after := trust(t)
	if len(after.Anchors) != 1 || number(after) <= number(before)+1 {
		t.Errorf("after rotation %d there is %d, with the anchors %+v", number(before), number(after), after.Anchors)
	}
	for _, past := range after.Past[:number(after)-number(before)] {
		if len(past.CutOff) > 0 {
			t.Errorf("cut off: %v", past.CutOff)
		}
	}
}
