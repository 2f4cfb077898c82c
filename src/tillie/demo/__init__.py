"""What `tillie demo` needs: a private server, a conversation, a look over the server's shoulder."""
