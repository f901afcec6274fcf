/* Tells the service manager how we are: the datagram protocol of sd_notify(3), so that the supervisor needs no library. */
#pragma once

/* "READY=1", "STOPPING=1", "STATUS=…". Does nothing without $NOTIFY_SOCKET; failure is nobody's business. */
void notify_send(const char *state);
