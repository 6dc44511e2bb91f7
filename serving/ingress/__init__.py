"""The way in: routes, the gateway's own listener, and HAProxy in front of it."""
