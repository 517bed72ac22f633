package connmix

// As much of a WebSocket client (RFC 6455) as the engine's API takes: text, pings, closing; no extensions.

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

const (
	opText   = 0x1
	opBinary = 0x2
	opClose  = 0x8
	opPing   = 0x9
	opPong   = 0xA

	maxMessage   = 64 << 20
	writeTimeout = 10 * time.Second
)

// webSocket is one connection, for one goroutine that receives; any may send.
type webSocket struct {
	conn    net.Conn
	reader  *bufio.Reader
	sending sync.Mutex
}

// dialWebSocket connects to an address such as http://host:port/path; https and wss with TLS.
func dialWebSocket(ctx context.Context, u *url.URL, header http.Header, config *tls.Config) (*webSocket, error) {
	port := u.Port()
	secure := u.Scheme == "https" || u.Scheme == "wss"
	if port == "" {
		port = map[bool]string{false: "80", true: "443"}[secure]
	}
	address := net.JoinHostPort(u.Hostname(), port)
	var conn net.Conn
	var err error
	if secure {
		conn, err = (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	} else {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return nil, err
	}
	// A handshake that is not answered ends with the context.
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-ctx.Done():
			conn.SetDeadline(time.Unix(1, 0))
		case <-stop:
		}
	}()
	ws, err := handshake(conn, u, header)
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	return ws, nil
}

func handshake(conn net.Conn, u *url.URL, header http.Header) (*webSocket, error) {
	nonce := make([]byte, 16)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	key := base64.StdEncoding.EncodeToString(nonce)
	path := &url.URL{Scheme: "http", Host: u.Host, Path: u.Path, RawQuery: u.RawQuery}
	request := &http.Request{Method: "GET", URL: path, Host: u.Host, ProtoMajor: 1, ProtoMinor: 1, Header: header.Clone()}
	if request.Header == nil {
		request.Header = http.Header{}
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "websocket")
	request.Header.Set("Sec-WebSocket-Version", "13")
	request.Header.Set("Sec-WebSocket-Key", key)
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		response.Body.Close()
		return nil, &Refused{response.StatusCode}
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if response.Header.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]) {
		return nil, errors.New("the answer is to another handshake")
	}
	return &webSocket{conn: conn, reader: reader}, nil
}

// receive returns the next message. Pings are answered meanwhile. At the end the error is a *Closed.
func (ws *webSocket) receive() ([]byte, error) {
	var message []byte
	for {
		head := make([]byte, 2, 10)
		if _, err := io.ReadFull(ws.reader, head); err != nil {
			return nil, &Closed{1006, "the connection broke"}
		}
		length := uint64(head[1] & 0x7F)
		if extra := map[uint64]int{126: 2, 127: 8}[length]; extra > 0 {
			more := make([]byte, 8)
			if _, err := io.ReadFull(ws.reader, more[8-extra:]); err != nil {
				return nil, &Closed{1006, "the connection broke"}
			}
			length = binary.BigEndian.Uint64(more)
		}
		if head[1]&0x80 != 0 || length > maxMessage || uint64(len(message))+length > maxMessage {
			ws.sendFrame(opClose, []byte{0x03, 0xEA}) // 1002
			return nil, &Closed{1002, "a frame that is masked or too large"}
		}
		data := make([]byte, length)
		if _, err := io.ReadFull(ws.reader, data); err != nil {
			return nil, &Closed{1006, "the connection broke"}
		}
		switch head[0] & 0x0F {
		case opPing:
			ws.sendFrame(opPong, data)
		case opClose:
			if len(data) < 2 {
				ws.sendFrame(opClose, nil)
				return nil, &Closed{1005, ""}
			}
			ws.sendFrame(opClose, data[:2])
			return nil, &Closed{int(binary.BigEndian.Uint16(data)), string(data[2:])}
		case 0, opText, opBinary:
			message = append(message, data...)
			if head[0]&0x80 != 0 {
				return message, nil
			}
		}
	}
}

func (ws *webSocket) send(text []byte) error { return ws.sendFrame(opText, text) }

func (ws *webSocket) sendFrame(opcode byte, data []byte) error {
	frame := make([]byte, 0, len(data)+14)
	frame = append(frame, 0x80|opcode)
	switch n := len(data); {
	case n < 126:
		frame = append(frame, 0x80|byte(n))
	case n < 65536:
		frame = append(frame, 0x80|126, byte(n>>8), byte(n))
	default:
		frame = append(frame, 0x80|127)
		frame = binary.BigEndian.AppendUint64(frame, uint64(n))
	}
	mask := make([]byte, 4)
	if _, err := rand.Read(mask); err != nil {
		return err
	}
	frame = append(frame, mask...)
	at := len(frame)
	frame = append(frame, data...)
	for i := range data {
		frame[at+i] ^= mask[i&3]
	}
	ws.sending.Lock()
	defer ws.sending.Unlock()
	ws.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := ws.conn.Write(frame)
	return err
}

func (ws *webSocket) close() {
	ws.sendFrame(opClose, []byte{0x03, 0xE8}) // 1000
	ws.conn.Close()
}
