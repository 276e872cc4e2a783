/* Looks its argument up by the C library that it is linked with, and prints the first address or the error. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	struct addrinfo hints, *found;
	char text[INET_ADDRSTRLEN];
	int error;

	if (argc < 2)
		return 64;
	memset(&hints, 0, sizeof hints);
	hints.ai_family = AF_INET;
	hints.ai_socktype = SOCK_STREAM;
	error = getaddrinfo(argv[1], NULL, &hints, &found);
	if (error) {
		puts(error == EAI_NONAME ? "EAI_NONAME" : gai_strerror(error));
		return 1;
	}
	inet_ntop(AF_INET, &((struct sockaddr_in *)found->ai_addr)->sin_addr, text, sizeof text);
	puts(text);
	return 0;
}
