-- What is asked, one after the other; `right` is the number of the right choice.
return {
  { text = "Which planet is the largest?", choices = { "Earth", "Jupiter", "Mars", "Venus" }, right = 2 },
  { text = "How many bits are in a byte?", choices = { "4", "8", "10", "16" }, right = 2 },
  { text = "What does a WebSocket begin as?", choices = { "A DNS query", "A TLS alert", "An HTTP request" }, right = 3 },
}
