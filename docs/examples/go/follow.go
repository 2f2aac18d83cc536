package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// event is what a worker reports when an attempt has ended: finished, failed, rejected, released, cancelled or split.
type event struct {
	Job     string `json:"job"`
	Attempt int    `json:"attempt"`
	Outcome string `json:"outcome"`
}

// view is what the API says about a job, as far as this program asks.
type view struct {
	State   string  `json:"state"`
	Attempt int     `json:"attempt"`
	Reason  *string `json:"reason"`
	Failure *struct {
		Message string `json:"message"`
	} `json:"failure"`
	Faults []struct {
		Path    string `json:"path"`
		Message string `json:"message"`
	} `json:"faults"`
}

func (v view) hasEnded() bool {
	switch v.State {
	case "completed", "failed", "cancelled", "rejected":
		return true
	}
	return false
}

// why says what is on record about a job that did not complete.
func (v view) why() string {
	var faults []string
	for _, fault := range v.Faults {
		faults = append(faults, fault.Path+": "+fault.Message)
	}
	switch {
	case len(faults) > 0:
		return strings.Join(faults, "; ")
	case v.Failure != nil:
		return v.Failure.Message
	case v.Reason != nil:
		return *v.Reason
	}
	return "no reason is on record"
}

// listen binds a queue of our own to the events exchange: the dispatcher's queue of that name is not ours to read. The queue goes
// with the connection. An event may repeat.
func listen(broker, id string) (<-chan event, func(), error) {
	ctx, cancel := context.WithCancel(context.Background())
	tooLate := time.AfterFunc(publishIn, cancel)
	connection, err := dial(ctx, broker)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	stop := func() {
		time.AfterFunc(time.Second, cancel) // a broker that answers nothing is not waited for
		connection.Close()
	}
	deliveries, err := bind(connection, firstOf(os.Getenv("FFPOOL_EVENTS_EXCHANGE"), "jobs.events"))
	tooLate.Stop()
	if err != nil {
		stop()
		return nil, nil, fmt.Errorf("listen to events: %w", err)
	}
	events := make(chan event, 16)
	go func() {
		defer close(events)
		for delivery := range deliveries {
			var told event
			if json.Unmarshal(delivery.Body, &told) == nil && told.Job == id {
				events <- told
			}
		}
	}()
	return events, stop, nil
}

func bind(connection *amqp.Connection, exchange string) (<-chan amqp.Delivery, error) {
	channel, err := connection.Channel()
	if err != nil {
		return nil, err
	}
	const durable, autoDelete, exclusive, noWait, autoAck, noLocal = false, true, true, false, true, false
	// The broker makes up the name: amq.gen-...
	own, err := channel.QueueDeclare("", durable, autoDelete, exclusive, noWait, nil)
	if err != nil {
		return nil, err
	}
	if err := channel.QueueBind(own.Name, "attempt.#", exchange, noWait, nil); err != nil {
		return nil, err
	}
	return channel.Consume(own.Name, "", autoAck, exclusive, noLocal, noWait, nil)
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// api asks the HTTP API.
type api struct {
	client   http.Client
	url, key string
}

func newAPI() (api, error) {
	trusted, err := x509.SystemCertPool()
	if err != nil {
		return api{}, err
	}
	if file := os.Getenv("FFPOOL_API_CA_FILE"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return api{}, fmt.Errorf("FFPOOL_API_CA_FILE: %s cannot be read: %w", file, err)
		}
		if !trusted.AppendCertsFromPEM(pem) {
			return api{}, fmt.Errorf("FFPOOL_API_CA_FILE: no certificate in %s", file)
		}
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}
	client := http.Client{Transport: transport, Timeout: 15 * time.Second}
	address, err := urlOf("FFPOOL_API_URL", "http", "https")
	if err != nil {
		return api{}, err
	}
	return api{client: client, url: address.String(), key: os.Getenv("FFPOOL_API_KEY")}, nil
}

// errNotYet is what may be different soon.
var errNotYet = errors.New("no answer yet")

// job reads one job. errNotYet: ask again.
func (a api) job(id string) (view, error) {
	request, err := http.NewRequest(http.MethodGet, a.url+"/v1/jobs/"+id, nil)
	if err != nil {
		return view{}, err
	}
	request.Header.Set("X-API-Key", a.key)
	answer, err := a.client.Do(request)
	if err != nil {
		return view{}, fmt.Errorf("%w: %v", errNotYet, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 16<<20))
	if err != nil {
		return view{}, fmt.Errorf("%w: %v", errNotYet, err)
	}
	switch answer.StatusCode {
	case http.StatusOK:
		var found view
		err := json.Unmarshal(text, &found)
		return found, err
	case http.StatusNotFound, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable:
		// Not found: the dispatcher has not read the broker's copy of the job yet.
		return view{}, fmt.Errorf("%w: the API answered %s", errNotYet, answer.Status)
	}
	return view{}, fmt.Errorf("the API answered %s: %s", answer.Status, text)
}

// outcome asks for the job whenever a worker reports something of it, and now and then without that, until it has ended. An
// event says how one attempt ended; whether another follows is the ledger's to say.
func outcome(api api, id string, events <-chan event) (view, error) {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	patienceEnds := time.Now().Add(patience)
	for {
		found, err := api.job(id)
		switch {
		case err == nil && found.hasEnded():
			return found, nil
		case err == nil:
			patienceEnds = time.Now().Add(patience)
		case !errors.Is(err, errNotYet):
			return view{}, err
		case time.Now().After(patienceEnds):
			return view{}, fmt.Errorf("the job was published, but cannot be followed: %w", err)
		}
		select {
		case told, isOpen := <-events:
			if isOpen {
				fmt.Printf("%s: attempt %d %s\n", told.Job, told.Attempt, told.Outcome)
			} else {
				events = nil // the connection is gone; the ticker goes on
			}
		case <-ticker.C:
		}
	}
}
