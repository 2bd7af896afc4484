"""SCEP as a client that shares no code with the server: RFC 8894 by hand, with Python's `cryptography`."""

import base64
import hashlib
import os
import subprocess
import tempfile
import urllib.parse
import urllib.request
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import AttributeOID, NameOID

OID_DATA = "1.2.840.113549.1.7.1"
OID_SIGNED = "1.2.840.113549.1.7.2"
OID_CONTENT_TYPE = "1.2.840.113549.1.9.3"
OID_DIGEST = "1.2.840.113549.1.9.4"
OID_TRANSACTION = "2.16.840.1.113733.1.9.7"
OID_MESSAGE_TYPE = "2.16.840.1.113733.1.9.2"
OID_STATUS = "2.16.840.1.113733.1.9.3"
OID_FAIL = "2.16.840.1.113733.1.9.4"
OID_SENDER_NONCE = "2.16.840.1.113733.1.9.5"
OID_RECIPIENT_NONCE = "2.16.840.1.113733.1.9.6"
OID_SHA256 = "2.16.840.1.101.3.4.2.1"
OID_RSA = "1.2.840.113549.1.1.1"


class ScepFailure(Exception):
    """The server answered FAILURE; the argument is the failInfo."""


# DER, written ---------------------------------------------------------------------------------------------------------


def tlv(tag, *parts):
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def oid(text):
    first, second, *rest = (int(part) for part in text.split("."))
    content = bytearray()
    for number in [first * 40 + second, *rest]:
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        content += bytes(reversed(groups))
    return tlv(0x06, bytes(content))


def integer(number):
    return tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def printable(text):
    return tlv(0x13, text.encode("ascii"))


def attribute(name, value):
    return tlv(0x30, oid(name), tlv(0x31, value))


# DER, read ------------------------------------------------------------------------------------------------------------


def items(data):
    """The (tag, content, whole) of each element in `data`."""
    at = 0
    while at < len(data):
        start, tag, length = at, data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            assert size, "the server writes DER: no indefinite lengths"
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        yield tag, data[at : at + length], data[start : at + length]
        at += length


def only(data, index):
    return list(items(data))[index]


# The exchange ---------------------------------------------------------------------------------------------------------


class Scep:
    def __init__(self, url, context=None):
        self.url, self.context = url, context

    def get(self, operation, message=None):
        query = {"operation": operation} | ({"message": message} if message else {})
        url = f"{self.url}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, context=self.context, timeout=30) as answer:
            return answer.headers, answer.read()

    def post(self, body):
        headers = {"Content-Type": "application/x-pki-message"}
        request = urllib.request.Request(f"{self.url}?operation=PKIOperation", body, headers, method="POST")
        with urllib.request.urlopen(request, context=self.context, timeout=30) as answer:
            return answer.headers, answer.read()

    def authority(self):
        headers, der = self.get("GetCACert")
        assert headers["Content-Type"] == "application/x-x509-ca-cert", headers["Content-Type"]
        return x509.load_der_x509_certificate(der)

    def enroll(self, key, subject, challenge):
        """Obtains a certificate for `key`."""
        csr = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(subject)
            .add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge.encode())
            .sign(key, hashes.SHA256())
        )
        return self.request(19, csr, key, self_signed(key))

    def renew(self, key, old_certificate, new_key):
        """Obtains a certificate for `new_key` in place of `old_certificate`."""
        csr = x509.CertificateSigningRequestBuilder().subject_name(old_certificate.subject)
        return self.request(17, csr.sign(new_key, hashes.SHA256()), key, old_certificate)

    def request(self, message_type, csr, signer_key, signer):
        capabilities = self.get("GetCACaps")[1].decode().split()
        assert {"POSTPKIOperation", "AES", "SHA-256", "Renewal"} <= set(capabilities), capabilities
        ca = self.authority()
        der = csr.public_bytes(serialization.Encoding.DER)
        envelope = (
            pkcs7.PKCS7EnvelopeBuilder()
            .set_data(der)
            .add_recipient(ca)
            .encrypt(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary])
        )
        transaction, nonce = hashlib.sha256(der).hexdigest(), os.urandom(16)
        headers, answer = self.post(signed(envelope, signer_key, signer, message_type, transaction, nonce))
        assert headers["Content-Type"] == "application/x-pki-message", headers["Content-Type"]
        return read_answer(answer, signer_key, signer, ca, transaction, nonce)


def self_signed(key):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SCEP request")])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    return builder.not_valid_before(now).not_valid_after(now + timedelta(hours=1)).sign(key, hashes.SHA256())


def signed(envelope, key, certificate, message_type, transaction, nonce):
    """SignedData over the envelope, with SCEP's signed attributes."""
    attributes = sorted(
        [
            attribute(OID_CONTENT_TYPE, oid(OID_DATA)),
            attribute(OID_DIGEST, tlv(0x04, hashlib.sha256(envelope).digest())),
            attribute(OID_MESSAGE_TYPE, printable(str(message_type))),
            attribute(OID_TRANSACTION, printable(transaction)),
            attribute(OID_SENDER_NONCE, tlv(0x04, nonce)),
        ]
    )
    signature = key.sign(tlv(0x31, *attributes), padding.PKCS1v15(), hashes.SHA256())
    sha256 = tlv(0x30, oid(OID_SHA256), tlv(0x05))
    signer = tlv(
        0x30,
        integer(1),
        tlv(0x30, certificate.issuer.public_bytes(), integer(certificate.serial_number)),
        sha256,
        tlv(0xA0, *attributes),
        tlv(0x30, oid(OID_RSA), tlv(0x05)),
        tlv(0x04, signature),
    )
    signed_data = tlv(
        0x30,
        integer(1),
        tlv(0x31, sha256),
        tlv(0x30, oid(OID_DATA), tlv(0xA0, tlv(0x04, envelope))),
        tlv(0xA0, certificate.public_bytes(serialization.Encoding.DER)),
        tlv(0x31, signer),
    )
    return tlv(0x30, oid(OID_SIGNED), tlv(0xA0, signed_data))


def openssl(*arguments, data=None):
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True, timeout=60).stdout


def read_answer(der, key, signer, ca, transaction, nonce):
    """The issued certificate in a CertRep, whose signature OpenSSL verifies against the CA."""
    signed_data = only(only(only(der, 0)[1], 1)[1], 0)[1]
    parts = list(items(signed_data))
    encapsulated = list(items(parts[2][1]))
    # A failure has no content; its signature is one over nothing.
    content = [] if len(encapsulated) > 1 else ["-content", os.devnull]
    with tempfile.NamedTemporaryFile(suffix=".pem") as trusted:
        trusted.write(ca.public_bytes(serialization.Encoding.PEM))
        trusted.flush()
        openssl("cms", "-verify", "-inform", "DER", "-binary", "-purpose", "any", "-CAfile", trusted.name,
                *content, "-out", os.devnull, data=der)
    signer_info = list(items(only(parts[-1][1], 0)[1]))
    attributes = next(content for tag, content, _ in signer_info if tag == 0xA0)
    values = {}
    for _, content, _ in items(attributes):
        (_, _, name), (_, values_set, _) = items(content)
        values[name] = only(values_set, 0)[1]
    assert values[oid(OID_TRANSACTION)].decode() == transaction
    assert values[oid(OID_MESSAGE_TYPE)] == b"3"
    assert values[oid(OID_RECIPIENT_NONCE)] == nonce
    if values[oid(OID_STATUS)] != b"0":
        raise ScepFailure(values.get(oid(OID_FAIL), b"?").decode())
    envelope = only(encapsulated[1][1], 0)[1]
    degenerate = pkcs7.pkcs7_decrypt_der(envelope, signer, key, [])
    return pkcs7.load_der_pkcs7_certificates(degenerate)[0]


def new_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def fingerprint(certificate):
    return base64.b64encode(certificate.fingerprint(hashes.SHA1())).decode()
