package ovsdb

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Bounds of what is taken from a server. A message of the largest size and what is
// made of it need about four times its size, and the replica as much again: together
// less than 128 MiB.
const (
	maxMessage = 8 << 20 // bytes of one message
	maxDepth   = 32      // of nested arrays and objects
	maxSmall   = 2 << 20 // bytes of an answer that is decoded whole
	maxRow     = 256 << 10
	maxRows    = 65536
	maxReplica = 8 << 20 // bytes of all rows, as they were sent
	maxEcho    = 64 << 10
	keepBuffer = 1 << 20
)

// errProtocol is what a server does wrong: the session ends, and another begins.
var errProtocol = errors.New("the server breaks the protocol")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

// frames cuts a stream into JSON objects (RFC 7047 §4: there is nothing between them)
// and bounds them. It looks at brackets and strings only.
type frames struct {
	r   *bufio.Reader
	buf []byte
}

func newFrames(r io.Reader) *frames { return &frames{r: bufio.NewReaderSize(r, 64<<10)} }

// next returns the next object, valid until the call after it.
func (f *frames) next() ([]byte, error) {
	if cap(f.buf) > keepBuffer {
		f.buf = nil
	}
	f.buf = f.buf[:0]
	depth, quoted, escaped := 0, false, false
	for {
		b, err := f.r.ReadByte()
		if err != nil {
			if len(f.buf) > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if depth == 0 {
			switch b {
			case ' ', '\t', '\r', '\n':
				continue
			case '{':
			default:
				return nil, violation("a message begins with byte %#x", b)
			}
		}
		if len(f.buf) == maxMessage {
			return nil, violation("a message of more than %d bytes", maxMessage)
		}
		f.buf = append(f.buf, b)
		switch {
		case escaped:
			escaped = false
		case quoted:
			escaped, quoted = b == '\\', b != '"'
		case b == '"':
			quoted = true
		case b == '{' || b == '[':
			if depth++; depth > maxDepth {
				return nil, violation("values nested more than %d deep", maxDepth)
			}
		case b == '}' || b == ']':
			if depth--; depth == 0 {
				return f.buf, nil
			}
		}
	}
}

// eachKey calls f with every key of the object that is next in dec; f takes the value.
func eachKey(dec *json.Decoder, f func(key string) error) error {
	if err := delim(dec, '{'); err != nil {
		return err
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok {
			return violation("a key that is no string")
		}
		if err := f(key); err != nil {
			return err
		}
	}
	return delim(dec, '}')
}

// eachElement calls f for every element of the array that is next in dec; f takes it.
func eachElement(dec *json.Decoder, f func() error) error {
	if err := delim(dec, '['); err != nil {
		return err
	}
	for dec.More() {
		if err := f(); err != nil {
			return err
		}
	}
	return delim(dec, ']')
}

func delim(dec *json.Decoder, want json.Delim) error {
	t, err := dec.Token()
	if err != nil {
		return err
	}
	if t != want {
		return violation("%v where %v belongs", t, want)
	}
	return nil
}

// isNull says whether a value is absent or null.
func isNull(raw []byte) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) == 0 || bytes.Equal(raw, []byte("null"))
}
