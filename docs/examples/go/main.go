// Publishes one job to ffpool over AMQP, listens on AMQP to what workers report of it, asks the API for its outcome when they
// do, and exits with 0 if it completed.
//
// usage: publish SCENARIO OUTPUT [INPUT]      without INPUT a test picture of two seconds is encoded
//
// Environment:
//
//	FFPOOL_AMQP_URL         amqp://user:password@host:5672/%2f; amqps://... with ?cacertfile=ca.pem, and where the broker asks
//	                        for a certificate &certfile=me.pem&keyfile=me.pem
//	FFPOOL_EVENTS_AMQP_URL  the same, of an account that may listen (listener.json); FFPOOL_AMQP_URL if not set
//	FFPOOL_EVENTS_EXCHANGE  where it listens; jobs.events if not set
//	FFPOOL_API_URL          https://host:8080
//	FFPOOL_API_KEY          a key that may read
//	FFPOOL_API_CA_FILE      the authority of the API's certificate, unless the system knows it
//	TRACEPARENT             the W3C trace to which the job belongs (optional)
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	queue     = "live"           // live, default or batch: the exchange is jobs.<queue>
	priority  = "low"            // high, medium or low: the routing key; high.gpu for the pool gpu
	publishIn = 30 * time.Second // from the connection to the broker's confirm
	// How often the API is asked when no event comes. Of a job that is refused where it is recorded no worker reports anything.
	look = 2 * time.Second
	// How long the API may be away, or may not know the job.
	patience = time.Minute
)

// job is what is published; docs/encodes.md has the other fields.
type job struct {
	ID         string         `json:"id,omitempty"`
	Scenario   string         `json:"scenario"`
	Input      string         `json:"input,omitempty"`
	Output     string         `json:"output"`
	Queue      string         `json:"queue"`
	Priority   string         `json:"priority"`
	Parameters map[string]any `json:"parameters,omitempty"`
}

// newJob makes the job. Its id follows from what it says, so publishing it again, even after a crash, makes no second job. A
// program with ids of its own (an order, a row) takes those instead: any UUID will do.
func newJob(scenario, output, input string) (job, error) {
	made := job{Scenario: scenario, Input: input, Output: output, Queue: queue, Priority: priority}
	if input == "" {
		made.Parameters = map[string]any{"duration": 2}
	}
	text, err := json.Marshal(made)
	made.ID = uuidOf(text)
	return made, err
}

// uuidOf makes a UUID of a text (version 8: SHA-256, cut to size).
func uuidOf(text []byte) string {
	sum := sha256.Sum256(text)
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// urlOf reads a setting that is a URL. What is wrong with one is not shown: there may be a password in it.
func urlOf(name string, schemes ...string) (*url.URL, error) {
	address, err := url.Parse(os.Getenv(name))
	if err == nil && address.Hostname() != "" {
		for _, scheme := range schemes {
			if address.Scheme == scheme {
				return address, nil
			}
		}
	}
	return nil, fmt.Errorf("%s is no URL of %s", name, strings.Join(schemes, " or "))
}

// brokerOf reads a broker's URL, and looks whether the library will be able to read the files that it names.
func brokerOf(name string) (string, error) {
	address, err := urlOf(name, "amqp", "amqps")
	if err != nil {
		return "", err
	}
	for _, parameter := range []string{"cacertfile", "certfile", "keyfile"} {
		if file := address.Query().Get(parameter); file != "" {
			if _, err := os.ReadFile(file); err != nil {
				return "", fmt.Errorf("%s: %s cannot be read: %w", name, file, err)
			}
		}
	}
	if _, err := amqp.ParseURI(os.Getenv(name)); err != nil {
		return "", fmt.Errorf("%s: its host, port or virtual host cannot be used", name)
	}
	return os.Getenv(name), nil
}

// dial connects; the library reads the certificate files that the URL names. The connection ends with the context: the library
// knows no bound for what it waits for.
func dial(ctx context.Context, address string) (*amqp.Connection, error) {
	begin := func(network, host string) (net.Conn, error) {
		conn, err := amqp.DefaultDial(publishIn)(network, host)
		if err == nil {
			go func() {
				<-ctx.Done()
				conn.Close()
			}()
		}
		return conn, err
	}
	connection, err := amqp.DialConfig(address, amqp.Config{Heartbeat: 10 * time.Second, Dial: begin})
	if errors.Is(err, amqp.ErrCredentials) {
		return nil, errors.New("RabbitMQ does not accept this user and password")
	}
	if err != nil {
		return nil, fmt.Errorf("RabbitMQ cannot be reached: %w", err)
	}
	return connection, nil
}

// publish returns when the broker has stored the job.
func publish(broker string, made job) error {
	address, err := amqp.ParseURI(broker)
	if err != nil {
		return errors.New("the broker's URL cannot be used")
	}
	body, err := json.Marshal(made)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), publishIn)
	defer cancel()
	connection, err := dial(ctx, broker)
	if err != nil {
		return err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err == nil {
		err = channel.Confirm(false)
	}
	if err != nil {
		return fmt.Errorf("the broker opens no channel: %w", err)
	}
	message := amqp.Publishing{
		ContentType:  "application/json",
		DeliveryMode: amqp.Persistent,
		MessageId:    made.ID,
		UserId:       address.Username, // the broker vouches for it; by it a tenant's jobs are known
		Headers:      amqp.Table{},
		Body:         body,
	}
	if parent := os.Getenv("TRACEPARENT"); parent != "" {
		message.Headers["traceparent"] = parent
	}
	return send(ctx, connection, channel, message)
}

// send publishes on a channel on which nothing else is in flight, so that whatever the broker says is about this message.
func send(ctx context.Context, connection *amqp.Connection, channel *amqp.Channel, message amqp.Publishing) error {
	exchange := "jobs." + queue
	again := "start again with the same arguments, which is safe"
	returned := channel.NotifyReturn(make(chan amqp.Return, 1))
	closed := channel.NotifyClose(make(chan *amqp.Error, 1))
	blocked := connection.NotifyBlocked(make(chan amqp.Blocking, 1))
	confirmed := channel.NotifyPublish(make(chan amqp.Confirmation, 1))
	if err := channel.PublishWithContext(ctx, exchange, priority, true, false, message); err != nil {
		return fmt.Errorf("the job may not have been published: %w; %s", err, again)
	}
	late := "the broker did not confirm the job"
	for {
		select {
		case confirmation, isOpen := <-confirmed:
			switch {
			case !isOpen:
				confirmed = nil // the channel is closed; why comes by `closed`
			case len(returned) > 0: // a returned message is confirmed as well, and the return comes first
				return fmt.Errorf("no queue is bound to %s under %s: is a dispatcher running?", exchange, priority)
			case !confirmation.Ack:
				return fmt.Errorf("the broker could not store the job; %s", again)
			default:
				return nil
			}
		case refusal := <-closed:
			if ctx.Err() != nil { // it was this program that ended the connection
				return fmt.Errorf("%s; %s", late, again)
			}
			if refusal == nil {
				return fmt.Errorf("the connection was closed; %s", again)
			}
			return fmt.Errorf("RabbitMQ refused the job: %s", refusal.Reason)
		case blocking, isOpen := <-blocked:
			// A broker that is short of memory or disk takes nothing from publishers and answers nothing.
			if !isOpen {
				blocked = nil
			} else if blocking.Active {
				late = "the broker takes no messages at present: " + blocking.Reason
			}
		case <-ctx.Done():
			return fmt.Errorf("%s; %s", late, again)
		}
	}
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "publish:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 3 && len(os.Args) != 4 {
		return errors.New("usage: publish SCENARIO OUTPUT [INPUT]")
	}
	for _, name := range []string{"FFPOOL_AMQP_URL", "FFPOOL_API_URL", "FFPOOL_API_KEY"} {
		if os.Getenv(name) == "" {
			return fmt.Errorf("%s is not set", name)
		}
	}
	// All that can be wrong with a setting is said before anything is published.
	broker, err := brokerOf("FFPOOL_AMQP_URL")
	if err != nil {
		return err
	}
	told := broker
	if os.Getenv("FFPOOL_EVENTS_AMQP_URL") != "" {
		if told, err = brokerOf("FFPOOL_EVENTS_AMQP_URL"); err != nil {
			return err
		}
	}
	made, err := newJob(os.Args[1], os.Args[2], append(os.Args, "")[3])
	if err != nil {
		return err
	}
	api, err := newAPI()
	if err != nil {
		return err
	}
	// Before the job is published, so that nothing of it is missed. A connection of its own: an alarm of the broker stops
	// those that publish.
	events, stop, err := listen(told, made.ID)
	if err != nil {
		return err
	}
	defer stop()
	if err := publish(broker, made); err != nil {
		return err
	}
	fmt.Printf("%s: published\n", made.ID)
	ended, err := outcome(api, made.ID, events)
	if err != nil {
		return err
	}
	if ended.State != "completed" {
		return fmt.Errorf("job %s %s: %s", made.ID, ended.State, ended.why())
	}
	fmt.Printf("%s: completed as attempt %d: %s\n", made.ID, ended.Attempt, made.Output)
	return nil
}
