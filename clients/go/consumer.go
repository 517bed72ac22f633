package connmix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"
)

// Delivery is what a handler of the engine pushed to a topic.
type Delivery struct {
	Topic string
	// Data is its JSON.
	Data json.RawMessage
	// Client is the id of the client whose handler it was, Node that of the engine.
	Client, Node string

	link *link
	logf func(string, ...interface{})
}

// Call has the client's connection do something, as conn.call of the API: see Subscribe and the others. Nothing waits for the reply: calls
// are carried out in their order, and before the message is settled. One that fails, since the client has left perhaps, is logged.
func (d *Delivery) Call(function string, arguments ...interface{}) {
	if arguments == nil {
		arguments = []interface{}{}
	}
	d.ask("conn.call", map[string]interface{}{"c": d.Client, "f": function, "a": arguments})
}

// Subscribe puts the client into channels.
func (d *Delivery) Subscribe(channels ...string) { d.Call("subscribe", values(channels)...) }

// Unsubscribe takes the client out of channels.
func (d *Delivery) Unsubscribe(channels ...string) { d.Call("unsubscribe", values(channels)...) }

// SetContext sets values of the client's context: a handler in conn:wait_context_value goes on.
func (d *Delivery) SetContext(all map[string]interface{}) { d.Call("set_context", all) }

// Close closes the client.
func (d *Delivery) Close(code int, reason string) { d.Call("close", code, reason) }

// Send sends a text to the client.
func (d *Delivery) Send(text string) {
	d.ask("mesh.send", map[string]interface{}{"c": d.Client, "d": text})
}

func (d *Delivery) ask(method string, params interface{}) {
	answer := d.link.call(method, params)
	go func() {
		var no *CallError
		if errors.As((<-answer).err, &no) {
			d.logf("connmix: a call failed: %v", no)
		}
	}()
}

func values(words []string) []interface{} {
	all := make([]interface{}, len(words))
	for i, word := range words {
		all[i] = word
	}
	return all
}

// Consumer takes the messages of topics from one engine.
//
// A message is settled when Handler returns nil. If it returns an error, that is logged, and the message comes again, to this consumer or
// another, after a pause that grows with each failure in a row. So may one whose connection breaks: what it leads to must bear that it
// comes twice.
type Consumer struct {
	// Address is an engine's API, such as http://127.0.0.1:6789.
	Address string
	Options Options
	Topics  []string
	Handler func(context.Context, *Delivery) error
	// Concurrency is how many messages are worked on at the same time; with 1, the default, they are in their order.
	Concurrency int
	// Logf gets a line for what goes wrong; log.Printf unless given.
	Logf func(format string, arguments ...interface{})
}

// Run consumes until the context is over, and then lets what is being worked on end. A connection that breaks is made again; the error is
// only that of a wrong address.
func (c *Consumer) Run(ctx context.Context) error {
	t, err := newTarget(c.Address, c.Options)
	if err != nil {
		return err
	}
	logf := c.Logf
	if logf == nil {
		logf = log.Printf
	}
	for failures := 0; ctx.Err() == nil; {
		if err := c.connection(ctx, t, logf, &failures); err != nil && ctx.Err() == nil {
			logf("connmix: no connection: %v", err)
		}
		failures++
		select {
		case <-time.After(pause(failures, 500*time.Millisecond, 30*time.Second)):
		case <-ctx.Done():
		}
	}
	return nil
}

func (c *Consumer) connection(ctx context.Context, t *target, logf func(string, ...interface{}), failures *int) error {
	// The engine gives no more than 1,024 that are not settled, so that this never blocks the reader.
	messages := make(chan event, 2048)
	l, err := t.connect(ctx, func(e event) { messages <- e })
	if err != nil {
		return err
	}
	defer l.close()
	select {
	case answer := <-l.call("queue.pop", map[string]interface{}{"t": c.Topics, "ack": true}):
		if answer.err != nil {
			return answer.err
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	concurrency := c.Concurrency
	if concurrency < 1 {
		concurrency = 1
	}
	var workers sync.WaitGroup
	var mu sync.Mutex // of failed and failures
	var failed error
	for i := 0; i < concurrency; i++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for {
				// What waits is left to others when the context is over.
				if ctx.Err() != nil {
					return
				}
				select {
				case e := <-messages:
					d := &Delivery{Topic: e.T, Data: e.D, Client: e.C, Node: e.N, link: l, logf: logf}
					if err := c.handle(ctx, d); err != nil {
						logf("connmix: a message of %s was not worked off, and comes again: %v", e.T, err)
						mu.Lock()
						failed = err
						mu.Unlock()
						l.close()
						return
					}
					d.ask("queue.ack", []json.Number{e.K})
					mu.Lock()
					*failures = 0
					mu.Unlock()
				case <-l.ended:
					return
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	workers.Wait()
	if failed != nil {
		return failed
	}
	if err := l.why(); err != nil {
		return err
	}
	// Its reply comes behind those of all calls before, so that nothing is on its way when the connection ends.
	select {
	case <-l.call("queue.unpop", map[string]interface{}{}):
	case <-time.After(connectTimeout):
	}
	return ctx.Err()
}

// handle makes a panic an error: the message comes again, and the program goes on.
func (c *Consumer) handle(ctx context.Context, d *Delivery) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return c.Handler(ctx, d)
}
