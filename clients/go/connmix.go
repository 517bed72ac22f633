// Package connmix is for back ends of connmix: publishing, and consuming queues, over its WebSocket API. The standard library alone.
package connmix

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// A connection is asked with a ping when it has been silent for so long, and given up when it says nothing for as long again.
const silence = 20 * time.Second

const connectTimeout = 5 * time.Second

// Options say who calls. The zero value is nobody in particular: for an engine without users.
type Options struct {
	User, Password string
	// Token is a bearer token, instead of user and password.
	Token string
	// TLS is for https addresses; nil means the usual.
	TLS *tls.Config
}

// CallError is the engine's own no. Code is that of the server API's tables, such as 101 for a wrong argument.
type CallError struct {
	Code    int
	Message string
}

func (e *CallError) Error() string { return fmt.Sprintf("%d: %s", e.Code, e.Message) }

// Refused is the engine's no to this caller: the status that its handshake was answered with. From 500 on it is one of the moment, and the
// publisher tries again: the engine stops, or a proxy finds none.
type Refused struct{ Status int }

func (e *Refused) Error() string {
	return fmt.Sprintf("refused with HTTP %d %s", e.Status, http.StatusText(e.Status))
}

// Closed says that the connection has ended, with the code and reason of its close frame; 1006 where there was none.
type Closed struct {
	Code   int
	Reason string
}

func (e *Closed) Error() string { return fmt.Sprintf("closed with %d %s", e.Code, e.Reason) }

// ErrClosed is what a publisher says after Close.
var ErrClosed = errors.New("the publisher is closed")

// target is an engine's WebSocket API.
type target struct {
	url     *url.URL
	header  http.Header
	options Options
}

func newTarget(address string, options Options) (*target, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "http", "https", "ws", "wss":
	default:
		return nil, fmt.Errorf("no http, https, ws or wss: %s", address)
	}
	u.Path = strings.TrimRight(u.Path, "/") + "/ws/v1"
	header := http.Header{}
	if options.Token != "" {
		header.Set("Authorization", "Bearer "+options.Token)
	} else if options.User != "" {
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(options.User+":"+options.Password)))
	}
	return &target{u, header, options}, nil
}

// pause is how long to wait after so many failures in a row: longer each time, and by chance, so that not all come back together.
func pause(failures int, first, longest time.Duration) time.Duration {
	d := longest
	if failures < 16 && first<<(failures-1) < longest {
		d = first << (failures - 1)
	}
	return d/2 + time.Duration(rand.Int63n(int64(d/2)))
}
