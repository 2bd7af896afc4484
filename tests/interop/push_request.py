"""Judges a request for a push certificate as Apple's portal would: push_request.py ANSWER VENDOR

ANSWER is what `POST /api/v1/apns/requests` answered, VENDOR the vendor's certificate (PEM). The signed request is base64
of a property list with the request, the vendor's signature over it, and the chain.
"""

import base64
import json
import pathlib
import plistlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

answer = json.loads(pathlib.Path(sys.argv[1]).read_text())
vendor = x509.load_pem_x509_certificate(pathlib.Path(sys.argv[2]).read_bytes())
signed = plistlib.loads(base64.b64decode(answer["signed_request"], validate=True))
assert set(signed) == {"PushCertRequestCSR", "PushCertSignature", "PushCertCertificateChain"}, set(signed)

der = base64.b64decode(signed["PushCertRequestCSR"], validate=True)
request = x509.load_der_x509_csr(der)
assert request.is_signature_valid
assert x509.load_pem_x509_csr(answer["csr"].encode()) == request
signature = base64.b64decode(signed["PushCertSignature"], validate=True)
vendor.public_key().verify(signature, der, padding.PKCS1v15(), hashes.SHA256())
chain = x509.load_pem_x509_certificates(signed["PushCertCertificateChain"].encode())
assert chain[0] == vendor and len(chain) == 2
