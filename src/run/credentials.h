/* credentials - what proves who we are is read again: the password, and the files of TLS. Coordinator thread.
 *
 * Happy path: once a second the password's file or credential is read, and the files of TLS are looked at -> one
 *   has changed -> every connection has it for its next handshake; one that was refused tries again at once. Those
 *   that are up stay who they are; with redis.password.refresh they log in anew, so that the old password may end.
 * Failure: it cannot be read, or certificate and key do not belong together: the old one stays, one warning until it
 *   can. The server refuses the new password on a connection that is up: that goes on as who it was, and asks twice
 *   more. */
#pragma once

struct daemon;
struct credentials;

struct credentials *credentials_open(struct daemon *d);
void credentials_close(struct credentials *c); /* NULL is fine */
