/*
 * The floor: what a policy request costs when nothing is done but the system calls that it cannot do
 * without. One connection at a time, no limit, no deadline, no sandbox, no log. One silent client
 * stops it for good, so it is a yardstick and not a server.
 *
 * usage: bare PORT FILE [more] [defer]
 *   FILE   the answer, sent as it is
 *   more   MSG_MORE on the send: the end of the answer and the FIN leave in one segment
 *   defer  TCP_DEFER_ACCEPT on the listener: no connection is accepted before its request is there
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char request[] = "<policy-file-request/>";

static void
serve(int connection, const char *answer, size_t length, int flags)
{
	char buffer[4096];
	size_t received = 0;
	ssize_t count;

	while (received < sizeof(request)) {
		count = recv(connection, buffer + received, sizeof(buffer) - received, 0);
		if (count <= 0)
			return;
		received += (size_t)count;
	}
	if (memcmp(buffer, request, sizeof(request)) != 0)
		return;
	while (length > 0) {
		count = send(connection, answer, length, flags | MSG_NOSIGNAL);
		if (count <= 0)
			return;
		answer += count;
		length -= (size_t)count;
	}
}

int
main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	struct pollfd listener = { .events = POLLIN };
	static char answer[1 << 20];
	size_t length;
	FILE *file;
	int argument, connection, flags = 0, one = 1;

	if (argc < 3)
		errx(2, "usage: bare PORT FILE [more] [defer]");
	address.sin_port = htons((unsigned short)atoi(argv[1]));
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if ((file = fopen(argv[2], "rb")) == NULL)
		err(1, "%s", argv[2]);
	length = fread(answer, 1, sizeof(answer), file);
	if (length == 0 || length == sizeof(answer))
		errx(1, "%s: empty, or longer than an answer may be here", argv[2]);
	fclose(file);

	listener.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (listener.fd == -1 ||
	    setsockopt(listener.fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == -1 ||
	    bind(listener.fd, (struct sockaddr *)&address, sizeof(address)) == -1 ||
	    listen(listener.fd, 4096) == -1)
		err(1, "port %s", argv[1]);
	for (argument = 3; argument < argc; argument++) {
		if (strcmp(argv[argument], "more") == 0)
			flags = MSG_MORE;
		else if (strcmp(argv[argument], "defer") == 0) {
			if (setsockopt(listener.fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &one, sizeof(one)) == -1)
				err(1, "TCP_DEFER_ACCEPT");
		} else
			errx(2, "%s: not an option", argv[argument]);
	}

	for (;;) {
		if (poll(&listener, 1, -1) == -1 && errno != EINTR)
			err(1, "poll");
		while ((connection = accept4(listener.fd, NULL, NULL, SOCK_CLOEXEC)) != -1) {
			serve(connection, answer, length, flags);
			close(connection);
		}
	}
}
