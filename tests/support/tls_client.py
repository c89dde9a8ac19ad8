"""Asks for the policy over TLS, as SecureSocket does: tls_client.py PORT COUNT VERSION CIPHERS

Reads the answer that is expected from standard input. Fails unless each answer is whole and the
connection ends with close_notify. Prints the cipher, the version and the digests of the
certificates that it met."""

import hashlib
import socket
import ssl
import sys
import warnings

port, count, version, ciphers = sys.argv[1:]
expected = sys.stdin.buffer.read()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
# TLS 1.0 is asked for on purpose.
warnings.simplefilter("ignore", DeprecationWarning)
context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
context.set_ciphers(ciphers)
certificates = []
for number in range(int(count)):
    plain = socket.create_connection(("127.0.0.1", int(port)), timeout=20)
    # Without close_notify, reading ends with an error.
    with context.wrap_socket(plain, suppress_ragged_eofs=False) as stream:
        stream.sendall(b"<policy-file-request/>\0")
        answer = b""
        while piece := stream.recv(65536):
            answer += piece
        if answer != expected:
            sys.exit(f"answer {number} is {answer!r}")
        certificate = hashlib.sha256(stream.getpeercert(binary_form=True)).hexdigest()
        if certificate not in certificates:
            certificates.append(certificate)
        session = stream.cipher()[0], stream.version()
print(*session, *certificates)
