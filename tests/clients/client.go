// net/http, as programs use it. URL, KEY, TLS_URL and CA come by the environment.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"time"
)

var failed bool

func test(name string, f func() error) {
	if err := f(); err != nil {
		failed = true
		fmt.Printf("not ok - go: %s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", " "))
		return
	}
	fmt.Printf("ok - go: %s\n", name)
}

type task struct {
	ID     string  `json:"id"`
	Status string  `json:"status"`
	Reason *string `json:"reason"`
	Stdout string  `json:"stdout"`
}

func request(ctx context.Context, method, url string, body io.Reader) *http.Request {
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		panic(err)
	}
	r.Header.Set("Content-Type", "application/json")
	id, secret, _ := strings.Cut(os.Getenv("KEY"), ":")
	r.SetBasicAuth(id, secret)
	return r
}

func do(client *http.Client, r *http.Request, want int) (*task, error) {
	answer, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != want {
		return nil, fmt.Errorf("%s: %.300s", answer.Status, data)
	}
	t := new(task)
	return t, json.Unmarshal(data, t)
}

func body(stdin string, cmd ...string) []byte {
	text, _ := json.Marshal(map[string]any{"image": "busybox:demo", "cmd": cmd, "network": "none", "stdin": stdin})
	return text
}

func expect(client *http.Client, r *http.Request, out string) error {
	t, err := do(client, r, 201)
	if err == nil && t.Stdout != out {
		return fmt.Errorf("got %q", t.Stdout)
	}
	return err
}

func main() {
	url := os.Getenv("URL") + "/v1/tasks"
	ctx := context.Background()

	test("a task", func() error {
		return expect(http.DefaultClient, request(ctx, "POST", url, bytes.NewReader(body("", "echo", "x"))), "x\n")
	})
	test("40 at once", func() error {
		var group sync.WaitGroup
		faults := make(chan error, 40)
		for n := 0; n < 40; n++ {
			group.Add(1)
			go func(text string) {
				defer group.Done()
				faults <- expect(http.DefaultClient, request(ctx, "POST", url, bytes.NewReader(body("", "echo", text))), text+"\n")
			}(fmt.Sprint(n))
		}
		group.Wait()
		close(faults)
		for err := range faults {
			if err != nil {
				return err
			}
		}
		return nil
	})
	test("connections are used again", func() error {
		client, again := &http.Client{Transport: &http.Transport{}}, 0
		for n := 0; n < 5; n++ {
			trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
				if i.Reused {
					again++
				}
			}}
			r := request(httptrace.WithClientTrace(ctx, trace), "POST", url, bytes.NewReader(body("", "true")))
			if _, err := do(client, r, 201); err != nil {
				return err
			}
		}
		if again != 4 {
			return fmt.Errorf("%d of 4 times", again)
		}
		return nil
	})
	test("a body of unknown length (chunked)", func() error {
		read, write := io.Pipe()
		go func() {
			text := body(strings.Repeat("x", 200000), "wc", "-c")
			for len(text) > 0 {
				n := 30000
				if n > len(text) {
					n = len(text)
				}
				_, _ = write.Write(text[:n])
				text = text[n:]
			}
			write.Close()
		}()
		return expect(http.DefaultClient, request(ctx, "POST", url, read), "200000\n")
	})
	test("Expect: 100-continue", func() error {
		client, continued := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 30 * time.Second}}, false
		trace := &httptrace.ClientTrace{Got100Continue: func() { continued = true }}
		r := request(httptrace.WithClientTrace(ctx, trace), "POST", url, bytes.NewReader(body("x", "cat")))
		r.Header.Set("Expect", "100-continue")
		if err := expect(client, r, "x"); err != nil {
			return err
		}
		if !continued {
			return fmt.Errorf("there was no 100")
		}
		return nil
	})
	test("a context that ends cancels its task", func() error {
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		label := fmt.Sprintf("go-%d", time.Now().UnixNano())
		text := fmt.Sprintf(`{"image":"busybox:demo","cmd":["sleep","60"],"network":"none","labels":{"test":"%s"}}`, label)
		if _, err := do(http.DefaultClient, request(short, "POST", url, strings.NewReader(text)), 201); err == nil {
			return fmt.Errorf("it was answered")
		}
		for n := 0; n < 600; n++ {
			answer, err := http.DefaultClient.Do(request(ctx, "GET", url+"?label=test="+label, nil))
			if err != nil {
				return err
			}
			var list struct{ Tasks []task }
			err = json.NewDecoder(answer.Body).Decode(&list)
			answer.Body.Close()
			if err == nil && len(list.Tasks) == 1 && list.Tasks[0].Reason != nil && *list.Tasks[0].Reason == "cancelled" {
				return nil
			}
			time.Sleep(50 * time.Millisecond)
		}
		return fmt.Errorf("it runs on")
	})
	test("TLS, with HTTP/2 asked for and HTTP/1.1 spoken", func() error {
		pem, err := os.ReadFile(os.Getenv("CA"))
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool}}}
		return expect(client, request(ctx, "POST", os.Getenv("TLS_URL")+"/v1/tasks", bytes.NewReader(body("", "echo", "tls"))),
			"tls\n")
	})
	if failed {
		os.Exit(1)
	}
}
