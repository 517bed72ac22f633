package connmix

// One connection to an engine's WebSocket API (/ws/v1): calls and their replies, events, and whether it still lives.

import (
	"context"
	"encoding/json"
	"sync"
	"time"
)

type reply struct {
	R   json.RawMessage
	err error
}

type event struct {
	T string          `json:"t"`
	D json.RawMessage `json:"d"`
	C string          `json:"c"`
	N string          `json:"n"`
	K json.Number     `json:"k"`
}

// link sends calls in the order in which they are made, and they take effect in it.
type link struct {
	ws      *webSocket
	onEvent func(event)
	ended   chan struct{} // closed at its end, when err says why

	order  sync.Mutex // held while a call is numbered and sent
	number int64

	mu    sync.Mutex // never held while anything is sent
	calls map[int64]chan reply
	heard bool
	err   error
}

func (t *target) connect(ctx context.Context, onEvent func(event)) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	ws, err := dialWebSocket(ctx, t.url, t.header, t.options.TLS)
	if err != nil {
		return nil, err
	}
	l := &link{ws: ws, onEvent: onEvent, ended: make(chan struct{}), calls: map[int64]chan reply{}}
	go l.receive()
	go l.watch()
	return l, nil
}

// call sends a call; its reply comes through the channel, which takes it though nobody reads.
func (l *link) call(method string, params interface{}) <-chan reply {
	answer := make(chan reply, 1)
	l.order.Lock()
	defer l.order.Unlock()
	l.number++
	text, err := json.Marshal(map[string]interface{}{"m": method, "p": params, "i": l.number})
	if err == nil {
		err = l.expect(l.number, answer)
	}
	if err != nil {
		answer <- reply{err: err}
		return answer
	}
	if err := l.ws.send(text); err != nil {
		// The reader sees the end, and tells all who wait.
		l.ws.conn.Close()
	}
	return answer
}

func (l *link) expect(number int64, answer chan reply) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.calls[number] = answer
	}
	return l.err
}

// why returns what ended the connection, nil while it lives.
func (l *link) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *link) receive() {
	for {
		text, err := l.ws.receive()
		if err != nil {
			l.end(err)
			return
		}
		l.mu.Lock()
		l.heard = true
		l.mu.Unlock()
		if string(text) == "pong" {
			continue
		}
		var message struct {
			E *struct {
				C int    `json:"c"`
				M string `json:"m"`
			} `json:"E"`
			Event string          `json:"e"`
			P     event           `json:"p"`
			R     json.RawMessage `json:"r"`
			I     int64           `json:"i"`
		}
		if err := decode(text, &message); err != nil {
			l.end(err)
			return
		}
		if message.Event != "" {
			if l.onEvent != nil {
				l.onEvent(message.P)
			}
			continue
		}
		l.mu.Lock()
		answer := l.calls[message.I]
		delete(l.calls, message.I)
		l.mu.Unlock()
		if answer == nil {
			continue
		}
		if message.E != nil {
			answer <- reply{err: &CallError{message.E.C, message.E.M}}
		} else {
			answer <- reply{R: message.R}
		}
	}
}

// watch asks a silent connection whether it lives.
func (l *link) watch() {
	for asked := false; ; {
		l.mu.Lock()
		l.heard = false
		l.mu.Unlock()
		select {
		case <-l.ended:
			return
		case <-time.After(silence):
		}
		l.mu.Lock()
		heard := l.heard
		l.mu.Unlock()
		switch {
		case heard:
			asked = false
		case asked:
			l.end(&Closed{1006, "silence"})
			return
		default:
			asked = true
			l.ws.send([]byte("ping"))
		}
	}
}

func (l *link) close() {
	l.ws.close()
	l.end(&Closed{1000, "by this side"})
}

func (l *link) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = err
	l.ws.conn.Close()
	for _, answer := range l.calls {
		answer <- reply{err: err}
	}
	l.calls = nil
	close(l.ended)
}
