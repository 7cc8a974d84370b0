/* credentials - the password file is read again, so that a password that has changed is used by the next connection.
 * Coordinator thread.
 *
 * Happy path: once a second the file or the credential is read -> it has changed -> every connection has the new
 * password
 *   for its next handshake; one that was refused tries again at once. Connections that are up stay who they are.
 * Failure: it cannot be read: the old one stays, one warning until it can. */
#pragma once

struct daemon;
struct credentials;

/* Looks at the password file once a second from now on. Heap; credentials_close. */
struct credentials *credentials_open(struct daemon *d);
void credentials_close(struct credentials *c); /* NULL is fine */
