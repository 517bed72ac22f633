package connmix

// Against a real engine:  CONNMIX=target/release/connmix go test ./...

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var backend = Options{User: "backend", Password: "change-me"}

// patience is for machines that are busy.
const patience = 30 * time.Second

// engine runs from start to kill, and may be started again at the same ports.
type engine struct {
	t             *testing.T
	port, apiPort int
	command       *exec.Cmd
}

// freePort is below those that the system gives to sockets by itself.
func freePort() int {
	for {
		port := 10240 + rand.Intn(21000)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port
		}
	}
}

func newEngine(t *testing.T) *engine {
	rand.Seed(time.Now().UnixNano())
	e := &engine{t: t, port: freePort(), apiPort: freePort()}
	e.start()
	t.Cleanup(e.kill)
	return e
}

func (e *engine) start() {
	e.t.Helper()
	program := os.Getenv("CONNMIX")
	if program == "" {
		program = "connmix"
	}
	files, err := filepath.Abs("../testing")
	check(e.t, err)
	e.command = exec.Command(program, "single", "-f", filepath.Join(files, "connmix.yaml"))
	e.command.Dir = files
	e.command.Env = append(os.Environ(), fmt.Sprintf("PORT=%d", e.port), fmt.Sprintf("API_PORT=%d", e.apiPort))
	check(e.t, e.command.Start())
	e.until("the engine serves", func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", e.apiPort))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func (e *engine) kill() {
	if e.command != nil {
		e.command.Process.Kill()
		e.command.Wait()
		e.command = nil
	}
}

func (e *engine) url() string { return fmt.Sprintf("http://127.0.0.1:%d", e.apiPort) }

func (e *engine) publisher(options Options) *Publisher {
	p, err := NewPublisher(e.url(), options)
	check(e.t, err)
	e.t.Cleanup(p.Close)
	return p
}

func (e *engine) until(what string, condition func() bool) {
	e.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if condition() {
			return
		}
	}
	e.t.Fatalf("it never came to that: %s", what)
}

// client is what a browser would be.
type client struct {
	e  *engine
	ws *webSocket
	id string
}

func (e *engine) client(channel string) *client {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	u, _ := url.Parse(fmt.Sprintf("ws://127.0.0.1:%d/ws", e.port))
	ws, err := dialWebSocket(ctx, u, nil, nil)
	check(e.t, err)
	e.t.Cleanup(ws.close)
	c := &client{e: e, ws: ws}
	if channel != "" {
		c.id = c.ask(map[string]interface{}{"subscribe": channel})["client"].(string)
	}
	return c
}

func (c *client) next() string {
	c.e.t.Helper()
	c.ws.conn.SetReadDeadline(time.Now().Add(patience))
	text, err := c.ws.receive()
	check(c.e.t, err)
	return string(text)
}

func (c *client) ask(what map[string]interface{}) (answer map[string]interface{}) {
	c.e.t.Helper()
	text, err := json.Marshal(what)
	check(c.e.t, err)
	check(c.e.t, c.ws.send(text))
	check(c.e.t, json.Unmarshal([]byte(c.next()), &answer))
	return answer
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, got, want interface{}) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, wanted %v", got, want)
	}
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestAMessageReachesItsChannelAsItIs(t *testing.T) {
	e := newEngine(t)
	p, c := e.publisher(backend), e.client("news")
	long := fmt.Sprintf("%070000d", 7)
	for _, data := range []string{"Hello", `{"quoted":"\"back\\slash\"	tab"}`, "视频 😀 é", long} {
		got, err := p.Publish(soon(t), "news", data)
		check(t, err)
		equal(t, got, Published{Reached: 1})
		equal(t, c.next(), data)
	}
	_, err := p.PublishMessage(soon(t), Message{Channel: "news", Binary: []byte{0, 255}})
	check(t, err)
	equal(t, c.next(), "\x00\xff")
	got, err := p.PublishMessage(soon(t), Message{Channel: "news", Text: "not you", Exclude: []string{c.id}})
	check(t, err)
	equal(t, got, Published{})
	first, err := p.PublishMessage(soon(t), Message{Channel: "limited:1", Text: "a", Key: "a", Priority: "normal"})
	check(t, err)
	second, err := p.Publish(soon(t), "limited:1", "b")
	check(t, err)
	equal(t, []bool{first.Position != "", first.LeftOut, second.LeftOut, second.Merged}, []bool{true, false, true, false})
	var alike Published
	for i := 0; i < 3; i++ {
		alike, err = p.PublishMessage(soon(t), Message{Channel: "merged:1", Text: "a", Key: "a"})
		check(t, err)
	}
	equal(t, alike.Merged, true)
	there, err := p.Send(soon(t), c.id, "only you")
	check(t, err)
	equal(t, there, true)
	equal(t, c.next(), "only you")
	there, err = p.Send(soon(t), "7", "nobody")
	check(t, err)
	equal(t, there, false)
	var count struct{ N int }
	check(t, p.Call(soon(t), "mesh.count", map[string]string{"c": "news"}, &count))
	equal(t, count.N, 1)
}

func TestManyAtOnceShareAConnection(t *testing.T) {
	e := newEngine(t)
	p, c := e.publisher(Options{Token: "a-long-random-token"}), e.client("news")
	errs := make(chan error)
	for i := 0; i < 500; i++ {
		go func(n int) {
			_, err := p.Publish(soon(t), "news", fmt.Sprint(n))
			errs <- err
		}(i)
	}
	seen := map[string]bool{}
	for i := 0; i < 500; i++ {
		check(t, <-errs)
		seen[c.next()] = true
	}
	equal(t, len(seen), 500)
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	e := newEngine(t)
	_, err := e.publisher(backend).Publish(soon(t), "two words", "Hello")
	var no *CallError
	if !errors.As(err, &no) || no.Code != 101 {
		t.Fatal(err)
	}
	for _, options := range []Options{{User: "backend", Password: "wrong"}, {}} {
		_, err = e.publisher(options).Publish(soon(t), "news", "Hello")
		var refused *Refused
		if !errors.As(err, &refused) || refused.Status != 401 {
			t.Fatal(err)
		}
	}
	if _, err := NewPublisher("ftp://127.0.0.1", backend); err == nil {
		t.Fatal("ftp")
	}
	p := e.publisher(backend)
	p.Close()
	if _, err := p.Publish(soon(t), "news", "Hello"); err != ErrClosed {
		t.Fatal(err)
	}
}

func TestAnEngineThatStopsIsAskedAgain(t *testing.T) {
	stopping := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer stopping.Close()
	p, err := NewPublisher(stopping.URL, backend)
	check(t, err)
	defer p.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err = p.Publish(ctx, "news", "Hello")
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "503") {
		t.Fatal(err)
	}
}

func TestAPublisherComesBackWhenTheEngineDoes(t *testing.T) {
	e := newEngine(t)
	p := e.publisher(backend)
	_, err := p.Publish(soon(t), "news", "before")
	check(t, err)
	e.kill()
	short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err = p.Publish(short, "news", "lost"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	waiting := make(chan error)
	go func() {
		_, err := p.Publish(soon(t), "news", "Hello")
		waiting <- err
	}()
	e.start()
	check(t, <-waiting)
	c := e.client("news")
	_, err = p.Publish(soon(t), "news", "after")
	check(t, err)
	equal(t, c.next(), "after")
}

func TestWhatLostItsReplyIsDeliveredOnce(t *testing.T) {
	e := newEngine(t)
	// Between the two stands a relay that gives no reply through until it is told to, and breaks connections.
	relay, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", freePort()))
	check(t, err)
	defer relay.Close()
	var shut int32
	pairs := make(chan net.Conn, 10)
	go func() {
		for {
			near, err := relay.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", e.apiPort))
			if err != nil {
				return
			}
			pairs <- near
			carry := func(from, to net.Conn, stops bool) {
				defer to.Close()
				buffer := make([]byte, 4096)
				for {
					n, err := from.Read(buffer)
					if err != nil {
						return
					}
					if !stops || atomic.LoadInt32(&shut) == 0 {
						to.Write(buffer[:n])
					}
				}
			}
			go carry(near, far, false)
			go carry(far, near, true)
		}
	}()
	p, err := NewPublisher("http://"+relay.Addr().String(), backend)
	check(t, err)
	defer p.Close()
	c := e.client("news")
	_, err = p.Publish(soon(t), "news", "first")
	check(t, err)
	atomic.StoreInt32(&shut, 1)
	lost := make(chan Published)
	go func() {
		got, _ := p.Publish(soon(t), "news", "Hello")
		lost <- got
	}()
	equal(t, []string{c.next(), c.next()}, []string{"first", "Hello"})
	atomic.StoreInt32(&shut, 0)
	(<-pairs).Close()
	equal(t, <-lost, Published{Reached: 1})
	_, err = p.Publish(soon(t), "news", "last")
	check(t, err)
	equal(t, c.next(), "last")
}

// consume runs a consumer, and returns what stops it.
func (e *engine) consume(concurrency int, handler func(context.Context, *Delivery) error) func() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	c := &Consumer{Address: e.url(), Options: backend, Topics: []string{"jobs", "login"}, Handler: handler,
		Concurrency: concurrency, Logf: func(string, ...interface{}) {}}
	go func() { ended <- c.Run(ctx) }()
	return func() {
		cancel()
		check(e.t, <-ended)
	}
}

// allIsSettled checks that another consumer gets nothing that was pushed before.
func (e *engine) allIsSettled() {
	seen := make(chan string, 100)
	stop := e.consume(1, func(_ context.Context, d *Delivery) error {
		seen <- string(d.Data)
		return nil
	})
	e.client("").ask(map[string]interface{}{"push": "the last"})
	equal(e.t, <-seen, `"the last"`)
	stop()
}

func TestAConsumerLogsAClientIn(t *testing.T) {
	e := newEngine(t)
	stop := e.consume(1, func(_ context.Context, d *Delivery) error {
		d.Subscribe("user:" + string(d.Data))
		d.SetContext(map[string]interface{}{"uid": d.Data})
		return nil
	})
	c := e.client("")
	c.ask(map[string]interface{}{"push": 1001, "topic": "login"})
	equal(t, c.ask(map[string]interface{}{"wait": "uid"}), map[string]interface{}{"value": 1001.0})
	got, err := e.publisher(backend).Publish(soon(t), "user:1001", "welcome")
	check(t, err)
	equal(t, got.Reached, 1)
	stop()
	e.allIsSettled()
}

func TestWhatAConsumerFailsAtComesAgain(t *testing.T) {
	e := newEngine(t)
	var tries int32
	stop := e.consume(1, func(_ context.Context, d *Delivery) error {
		switch atomic.AddInt32(&tries, 1) {
		case 1:
			return errors.New("as it was meant to")
		case 2:
			panic("as it was meant to")
		}
		d.Send("done " + string(d.Data))
		return nil
	})
	c := e.client("")
	c.ask(map[string]interface{}{"push": map[string]int{"job": 1}})
	equal(t, c.next(), `done {"job":1}`)
	stop()
	equal(t, tries, int32(3))
	e.allIsSettled()
}

func TestMessagesComeInTheirOrderAndSeveralAtOnceIfWished(t *testing.T) {
	e := newEngine(t)
	seen := make(chan string, 100)
	stop := e.consume(0, func(_ context.Context, d *Delivery) error {
		seen <- string(d.Data)
		return nil
	})
	c := e.client("")
	for i := 0; i < 50; i++ {
		c.ask(map[string]interface{}{"push": i})
	}
	for i := 0; i < 50; i++ {
		equal(t, <-seen, fmt.Sprint(i))
	}
	stop()
	var count int32
	together := make(chan struct{})
	stop = e.consume(3, func(context.Context, *Delivery) error {
		if atomic.AddInt32(&count, 1) == 3 {
			close(together)
		}
		<-together
		return nil
	})
	for i := 0; i < 3; i++ {
		c.ask(map[string]interface{}{"push": i})
	}
	<-together
	stop()
	e.allIsSettled()
}

func TestAConsumerComesBackWhenTheEngineDoes(t *testing.T) {
	e := newEngine(t)
	seen := make(chan string, 100)
	stop := e.consume(1, func(_ context.Context, d *Delivery) error {
		seen <- string(d.Data)
		return nil
	})
	e.client("").ask(map[string]interface{}{"push": 1})
	equal(t, <-seen, "1")
	e.kill()
	e.start()
	e.client("").ask(map[string]interface{}{"push": 2})
	equal(t, <-seen, "2")
	stop()
}
