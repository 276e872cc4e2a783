"""Looks its argument up by the C library and prints the first address or the error."""
import socket
import sys

try:
    print(socket.getaddrinfo(sys.argv[1], 443, socket.AF_INET)[0][4][0])
except socket.gaierror as error:
    print("EAI_NONAME" if error.errno == socket.EAI_NONAME else error)
    sys.exit(1)
