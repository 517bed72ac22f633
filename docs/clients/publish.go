// Publishes each line of its input to a channel: go run publish.go news
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// client keeps connections open, as long as replies are read to their end.
var client = &http.Client{Timeout: 5 * time.Second}

type answer struct {
	E *struct {
		C int
		M string
	}
	R struct{ S, F int }
}

// publish returns how many connections were reached, and how many could not be.
func publish(api, user, channel, data string) (int, int, error) {
	body, err := json.Marshal(map[string]string{"c": channel, "d": data})
	if err != nil {
		return 0, 0, err
	}
	request, err := http.NewRequest("POST", api+"/v1/mesh/publish", bytes.NewReader(body))
	if err != nil {
		return 0, 0, err
	}
	name, password, _ := strings.Cut(user, ":")
	request.SetBasicAuth(name, password)
	request.Header.Set("Content-Type", "application/json")
	reply, err := client.Do(request)
	if err != nil {
		return 0, 0, err
	}
	defer reply.Body.Close()
	var a answer
	if err := json.NewDecoder(reply.Body).Decode(&a); err != nil {
		return 0, 0, fmt.Errorf("HTTP %d: %w", reply.StatusCode, err)
	}
	if a.E != nil {
		return 0, 0, fmt.Errorf("HTTP %d, %d: %s", reply.StatusCode, a.E.C, a.E.M)
	}
	return a.R.S, a.R.F, nil
}

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func main() {
	api, user := env("CONNMIX_API", "http://127.0.0.1:6789"), env("CONNMIX_USER", "backend:change-me")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		reached, failed, err := publish(api, user, os.Args[1], lines.Text())
		if err != nil {
			fmt.Fprintln(os.Stderr, "not published:", err)
			os.Exit(1)
		}
		fmt.Printf("reached %d, failed %d\n", reached, failed)
	}
}
