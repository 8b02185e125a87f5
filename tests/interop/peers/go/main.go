// A LwM2M device on go-coap and pion's DTLS, for tests: peer <uri> <endpoint> [name=value …].
// What it prints and takes is described in tests/interop/src/peer.rs.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	piondtls "github.com/pion/dtls/v3"
	"github.com/plgd-dev/go-coap/v3/dtls"
	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/mux"
	"github.com/plgd-dev/go-coap/v3/net/blockwise"
	"github.com/plgd-dev/go-coap/v3/options"
	"github.com/plgd-dev/go-coap/v3/udp"
	"github.com/plgd-dev/go-coap/v3/udp/client"
)

const (
	text       = message.MediaType(0)
	linkFormat = message.MediaType(40)
	tlv        = message.MediaType(11542)
	patience   = 10 * time.Second
)

var print sync.Mutex

func say(format string, values ...any) {
	print.Lock()
	defer print.Unlock()
	fmt.Printf(format+"\n", values...)
}

func fail(what string, err error) {
	say("failed %s: %v", what, err)
	os.Exit(1)
}

// Who observes the temperature, and in which format.
type watcher struct {
	connection mux.Conn
	token      message.Token
	format     message.MediaType
	sequence   uint32
}

type device struct {
	lock        sync.Mutex
	temperature float64
	zone        string
	application string
	watchers    map[string]*watcher
}

// A resource's value as text and as the bytes of its TLV.
func (d *device) read(path string) (string, []byte, bool) {
	switch path {
	case "3/0/0":
		return "zeelos interop", []byte("zeelos interop"), true
	case "3/0/1":
		return "go-coap", []byte("go-coap"), true
	case "3/0/15":
		return d.zone, []byte(d.zone), true
	case "3/0/16":
		return "U", []byte("U"), true
	case "3303/0/5700":
		number := strconv.FormatFloat(d.temperature, 'f', -1, 64)
		return number, binary.BigEndian.AppendUint64(nil, math.Float64bits(d.temperature)), true
	case "3303/0/5750":
		return d.application, []byte(d.application), true
	}
	return "", nil, false
}

var instances = map[string][]string{
	"3/0":    {"0", "1", "15", "16"},
	"3303/0": {"5700", "5750"},
}

// One resource with a value: type, identifier, length, value.
func record(id int, value []byte) []byte {
	kind := byte(0b11_0_00_000)
	var out []byte
	if id > 255 {
		kind |= 0b00_1_00_000
		out = []byte{byte(id >> 8), byte(id)}
	} else {
		out = []byte{byte(id)}
	}
	switch size := len(value); {
	case size < 8:
		kind |= byte(size)
	case size < 256:
		kind |= 0b01_000
		out = append(out, byte(size))
	default:
		kind |= 0b10_000
		out = append(out, byte(size>>8), byte(size))
	}
	return append(append([]byte{kind}, out...), value...)
}

func (d *device) encode(path string, format message.MediaType) ([]byte, codes.Code) {
	if members, ok := instances[path]; ok {
		if format != tlv {
			return nil, codes.NotAcceptable
		}
		var all []byte
		for _, member := range members {
			_, value, _ := d.read(path + "/" + member)
			id, _ := strconv.Atoi(member)
			all = append(all, record(id, value)...)
		}
		return all, codes.Content
	}
	words, value, ok := d.read(path)
	if !ok {
		return nil, codes.NotFound
	}
	switch format {
	case text:
		return []byte(words), codes.Content
	case tlv:
		id, _ := strconv.Atoi(path[strings.LastIndex(path, "/")+1:])
		return record(id, value), codes.Content
	}
	return nil, codes.NotAcceptable
}

// The value in a TLV of one resource.
func decode(data []byte) ([]byte, bool) {
	if len(data) < 2 || data[0]>>6 != 3 {
		return nil, false
	}
	at := 2
	if data[0]&0x20 != 0 {
		at++
	}
	size := int(data[0] & 7)
	for n := int(data[0] >> 3 & 3); n > 0; n-- {
		if at >= len(data) {
			return nil, false
		}
		size = size<<8 | int(data[at])
		at++
	}
	if at+size != len(data) {
		return nil, false
	}
	return data[at:], true
}

func answer(w mux.ResponseWriter, code codes.Code, format message.MediaType, body []byte) {
	var err error
	if body == nil {
		err = w.SetResponse(code, text, nil)
	} else {
		err = w.SetResponse(code, format, bytes.NewReader(body))
	}
	if err != nil {
		say("failed answer: %v", err)
	}
}

func (d *device) serve(w mux.ResponseWriter, r *mux.Message) {
	full, err := r.Options().Path()
	if err != nil {
		answer(w, codes.BadRequest, text, nil)
		return
	}
	path := strings.Trim(full, "/")
	body, err := r.ReadBody()
	if err != nil {
		body = nil
	}
	d.lock.Lock()
	defer d.lock.Unlock()
	switch r.Code() {
	case codes.GET:
		d.get(w, r, path)
	case codes.PUT:
		d.put(w, r, path, body)
	case codes.POST:
		if path != "3/0/4" {
			answer(w, codes.MethodNotAllowed, text, nil)
			return
		}
		say("executed /3/0/4 %s", body)
		answer(w, codes.Changed, text, nil)
	default:
		answer(w, codes.MethodNotAllowed, text, nil)
	}
}

func (d *device) get(w mux.ResponseWriter, r *mux.Message, path string) {
	format, err := r.Options().Accept()
	if err != nil {
		format = text
		if _, whole := instances[path]; whole {
			format = tlv
		}
	}
	if format == linkFormat {
		var links []string
		for instance, members := range instances {
			if instance == path || strings.HasPrefix(instance, path+"/") {
				links = append(links, "</"+instance+">")
				for _, member := range members {
					links = append(links, "</"+instance+"/"+member+">")
				}
			}
		}
		answer(w, codes.Content, linkFormat, []byte(strings.Join(links, ",")))
		return
	}
	body, code := d.encode(path, format)
	if code != codes.Content {
		answer(w, code, text, nil)
		return
	}
	observe, err := r.Options().Observe()
	if err != nil {
		answer(w, code, format, body)
		return
	}
	key := string(r.Token())
	if observe != 0 {
		delete(d.watchers, key)
		answer(w, code, format, body)
		return
	}
	// A token stays with its request; the library reuses the message.
	token := append(message.Token(nil), r.Token()...)
	d.watchers[key] = &watcher{connection: w.Conn(), token: token, format: format, sequence: 2}
	if err := w.SetResponse(code, format, bytes.NewReader(body), observed(1)); err != nil {
		say("failed answer: %v", err)
	}
}

func observed(sequence uint32) message.Option {
	value := make([]byte, 4)
	size, _ := message.EncodeUint32(value, sequence)
	return message.Option{ID: message.Observe, Value: value[:size]}
}

func (d *device) put(w mux.ResponseWriter, r *mux.Message, path string, body []byte) {
	if path != "3/0/15" && path != "3303/0/5750" {
		answer(w, codes.MethodNotAllowed, text, nil)
		return
	}
	format, err := r.Options().ContentFormat()
	if err != nil {
		format = text
	}
	value, ok := body, format == text
	if format == tlv {
		value, ok = decode(body)
	}
	if !ok {
		answer(w, codes.UnsupportedMediaType, text, nil)
		return
	}
	if path == "3/0/15" {
		d.zone = string(value)
	} else {
		d.application = string(value)
	}
	say("written /%s %s", path, value)
	answer(w, codes.Changed, text, nil)
}

// Sets the temperature and tells who observes it.
func (d *device) set(value float64) {
	d.lock.Lock()
	d.temperature = value
	var told []*watcher
	for _, one := range d.watchers {
		told = append(told, one)
	}
	d.lock.Unlock()
	for _, one := range told {
		d.lock.Lock()
		body, _ := d.encode("3303/0/5700", one.format)
		one.sequence++
		sequence := one.sequence
		d.lock.Unlock()
		note := one.connection.AcquireMessage(one.connection.Context())
		note.SetCode(codes.Content)
		note.SetToken(one.token)
		note.SetType(message.Confirmable)
		note.SetContentFormat(one.format)
		note.SetObserve(sequence)
		note.SetBody(bytes.NewReader(body))
		if err := one.connection.WriteMessage(note); err != nil {
			say("failed notification: %v", err)
		}
		one.connection.ReleaseMessage(note)
	}
}

func dial(uri *url.URL, settings map[string]string, handler mux.Handler) (*client.Conn, error) {
	size := blockwise.SZX1024
	if settings["block"] == "256" {
		size = blockwise.SZX256
	}
	common := []udp.Option{
		options.WithMux(handler),
		options.WithBlockwise(true, size, patience),
		options.WithTransmission(1, 2*time.Second, 4),
	}
	if uri.Scheme == "coap" {
		return udp.Dial(uri.Host, common...)
	}
	if psk, ok := settings["psk"]; ok {
		identity, secret, _ := strings.Cut(psk, ":")
		key, err := hex.DecodeString(secret)
		if err != nil {
			return nil, err
		}
		return dtls.Dial(uri.Host, dtls.NewDTLSClientOptions(
			piondtls.WithPSK(func([]byte) ([]byte, error) { return key, nil }),
			piondtls.WithPSKIdentityHint([]byte(identity)),
			piondtls.WithCipherSuites(piondtls.TLS_PSK_WITH_AES_128_CCM_8),
		), common...)
	}
	certificate, err := tls.LoadX509KeyPair(settings["cert"], settings["key"])
	if err != nil {
		return nil, err
	}
	trusted, err := os.ReadFile(settings["ca"])
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(trusted)
	return dtls.Dial(uri.Host, dtls.NewDTLSClientOptions(
		piondtls.WithCertificates(certificate),
		piondtls.WithRootCAs(roots),
		piondtls.WithServerName(settings["name"]),
		piondtls.WithCipherSuites(piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8),
	), common...)
}

func query(name, value string) message.Option {
	return message.Option{ID: message.URIQuery, Value: []byte(name + "=" + value)}
}

func main() {
	settings := map[string]string{"lifetime": "300"}
	for _, setting := range os.Args[3:] {
		name, value, _ := strings.Cut(setting, "=")
		settings[name] = value
	}
	uri, err := url.Parse(os.Args[1])
	if err != nil {
		fail("uri", err)
	}
	device := &device{temperature: 20, zone: "UTC", application: "test", watchers: map[string]*watcher{}}
	connection, err := dial(uri, settings, mux.HandlerFunc(device.serve))
	if err != nil {
		fail("connection", err)
	}
	say("started")

	ask := func(what string, call func(context.Context) (codes.Code, string, error)) string {
		within, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		code, location, err := call(within)
		if err != nil {
			fail(what, err)
		}
		if code >= codes.BadRequest {
			fail(what, fmt.Errorf("%v", code))
		}
		return location
	}
	links := "</>;rt=\"oma.lwm2m\";ct=11542,</1/0>,</3/0>,</3303/0>"
	location := ask("registration", func(within context.Context) (codes.Code, string, error) {
		response, err := connection.Post(within, "/rd", linkFormat, strings.NewReader(links),
			query("ep", os.Args[2]), query("lt", settings["lifetime"]), query("lwm2m", "1.1"), query("b", "U"))
		if err != nil {
			return 0, "", err
		}
		var parts []string
		for _, option := range response.Options() {
			if option.ID == message.LocationPath {
				parts = append(parts, string(option.Value))
			}
		}
		return response.Code(), "/" + strings.Join(parts, "/"), nil
	})
	say("registered %s", location)

	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		words := strings.Fields(commands.Text())
		switch words[0] {
		case "set":
			value, err := strconv.ParseFloat(words[2], 64)
			if err != nil {
				fail("number", err)
			}
			device.set(value)
			say("value /3303/0/5700 %s", words[2])
		case "update":
			ask("update", func(within context.Context) (codes.Code, string, error) {
				response, err := connection.Post(within, location, text, nil, query("lt", settings["lifetime"]))
				if err != nil {
					return 0, "", err
				}
				return response.Code(), "", nil
			})
			say("updated")
		case "deregister":
			ask("deregistration", func(within context.Context) (codes.Code, string, error) {
				response, err := connection.Delete(within, location)
				if err != nil {
					return 0, "", err
				}
				return response.Code(), "", nil
			})
			say("deregistered")
		default:
			say("unknown command %s", words[0])
		}
	}
}
