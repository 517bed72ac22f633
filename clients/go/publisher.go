package connmix

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Published says whom a message reached: connections that took it, that could not, and nodes of a cluster that did not answer in time.
type Published struct {
	Reached, Failed, Unanswered int
	// LeftOut: it was over the limit of its channel's rule.
	LeftOut bool
	// Position is its place in a channel that keeps messages.
	Position string
	// Merged: over the limit, it was added to others with the same key, and is not lost.
	Merged bool
}

// Publisher keeps one connection, and makes it again when it must. One for the whole program; any number of goroutines may publish.
type Publisher struct {
	target *target

	mu       sync.Mutex // of a connection that is being made, too
	link     *link
	failures int
	closed   bool
}

// NewPublisher is for the engine whose API is at the address, such as http://127.0.0.1:6789. It connects at the first call.
func NewPublisher(address string, options Options) (*Publisher, error) {
	t, err := newTarget(address, options)
	if err != nil {
		return nil, err
	}
	return &Publisher{target: t}, nil
}

// Message is what is published, with all that may be said of it.
type Message struct {
	Channel string
	// Text, or else Binary.
	Text   string
	Binary []byte
	// ID is what the engine knows a publish by that is asked for again; a random one unless given.
	ID string
	// Exclude has the ids of clients that do not get it.
	Exclude []string
	// Key says what it is about, Priority ("high", "normal", "low") how much it matters: for channels whose rule asks for it.
	Key, Priority string
}

// Publish publishes a text to a channel.
func (p *Publisher) Publish(ctx context.Context, channel, text string) (Published, error) {
	return p.PublishMessage(ctx, Message{Channel: channel, Text: text})
}

// PublishMessage publishes a message. One whose reply is lost with the connection is published again by its id: it is delivered once. The
// error is a *CallError or *Refused if the engine says no, and the context's when that is over: then it may have been published or not.
func (p *Publisher) PublishMessage(ctx context.Context, m Message) (Published, error) {
	params := map[string]interface{}{"c": m.Channel, "d": m.Text, "id": m.ID}
	if m.ID == "" {
		id := make([]byte, 16)
		if _, err := rand.Read(id); err != nil {
			return Published{}, err
		}
		params["id"] = hex.EncodeToString(id)
	}
	if m.Binary != nil {
		params["d"], params["t"] = m.Binary, "binary" // encoding/json writes bytes as base64
	}
	if len(m.Exclude) > 0 {
		params["x"] = m.Exclude
	}
	if m.Key != "" {
		params["k"] = m.Key
	}
	if m.Priority != "" {
		params["pr"] = m.Priority
	}
	var r struct {
		S, F, U, L, M int
		P             string
	}
	err := p.call(ctx, "mesh.publish", params, &r, true)
	return Published{r.S, r.F, r.U, r.L != 0, r.P, r.M != 0}, err
}

// Send sends a text to one client, and returns whether it is there. It is not repeated: after another error it may have been sent.
func (p *Publisher) Send(ctx context.Context, client, text string) (bool, error) {
	err := p.call(ctx, "mesh.send", map[string]interface{}{"c": client, "d": text}, nil, false)
	var no *CallError
	if errors.As(err, &no) && no.Code == 401 {
		return false, nil
	}
	return err == nil, err
}

// Call calls any method of the WebSocket API, and decodes its r into result, unless that is nil. It is not repeated.
func (p *Publisher) Call(ctx context.Context, method string, params, result interface{}) error {
	return p.call(ctx, method, params, result, false)
}

// Close ends the connection.
func (p *Publisher) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.link != nil {
		p.link.close()
	}
}

func (p *Publisher) call(ctx context.Context, method string, params, result interface{}, again bool) error {
	var last error
	late := func() error {
		if last != nil {
			return fmt.Errorf("%s: %w; %v", method, ctx.Err(), last)
		}
		return fmt.Errorf("%s: %w", method, ctx.Err())
	}
	for {
		l, err := p.connected(ctx)
		if err != nil {
			var refused *Refused
			if errors.As(err, &refused) && refused.Status < 500 || errors.Is(err, ErrClosed) {
				return err
			}
			if ctx.Err() != nil {
				return late()
			}
			// An attempt may run into the deadline a moment before the context does: what was said before tells more.
			var timeout net.Error
			if last == nil || !errors.As(err, &timeout) || !timeout.Timeout() {
				last = err
			}
			continue // the pause is in front of the next attempt
		}
		select {
		case answer := <-l.call(method, params):
			var no *CallError
			switch {
			case answer.err == nil && result == nil:
				return nil
			case answer.err == nil:
				return decode(answer.R, result)
			case errors.As(answer.err, &no) || !again:
				return answer.err
			}
			last = answer.err
		case <-ctx.Done():
			return late()
		}
	}
}

func (p *Publisher) connected(ctx context.Context) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	if p.link != nil {
		select {
		case <-p.link.ended:
		default:
			return p.link, nil
		}
	}
	if p.failures > 0 {
		select {
		case <-time.After(pause(p.failures, 100*time.Millisecond, 5*time.Second)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	p.failures++
	l, err := p.target.connect(ctx, nil)
	if err != nil {
		return nil, err
	}
	p.link, p.failures = l, 0
	return l, nil
}

// decode keeps whole numbers whole.
func decode(text []byte, into interface{}) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return decoder.Decode(into)
}
