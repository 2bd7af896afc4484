"""A device that shares no code with the server: from the enrollment link to a lock that is answered.

    device.py LINK [--wait-for REQUEST_TYPE] [--directory DIR] [--identity CERTIFICATE KEY] [--enrolled UDID] [--removed]

It opens the link, has OpenSSL verify the profile's signature, obtains a certificate by SCEP, trusts from then on only
what the profile brought, enrolls over mutual TLS with an Mdm-Signature made by OpenSSL, and answers commands until one
of the awaited type is done. Every property list is read by Python's plistlib, also those within others: profiles that
are installed, the manifest of an app, the profile for the return after a wipe.

With --identity it uses a certificate that another program obtained; with --enrolled it is a device that enrolled before
and only polls; with --removed it must be told to leave.
"""

import argparse
import base64
import http.client
import io
import json
import os
import pathlib
import plistlib
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import uuid
import zipfile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

import scep

NAMES = {"CN": NameOID.COMMON_NAME, "O": NameOID.ORGANIZATION_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME}


def fetch(url):
    """A page before anything is trusted, as a browser that was told to go on."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with urllib.request.urlopen(url, context=context, timeout=30) as answer:
        return answer.headers, answer.read()


def open_profile(der, directory):
    """The content of a signed profile, and the roots that it brings; OpenSSL verifies signature and chain."""
    signed = directory / "profile.mobileconfig"
    signed.write_bytes(der)
    profile = read_profile(der)
    roots = [p["PayloadContent"] for p in profile["PayloadContent"] if p["PayloadType"] == "com.apple.security.root"]
    trusted = directory / "roots.pem"
    pem = [x509.load_der_x509_certificate(root).public_bytes(serialization.Encoding.PEM) for root in roots]
    trusted.write_bytes(b"".join(pem))
    if roots:
        scep.openssl("cms", "-verify", "-inform", "DER", "-binary", "-purpose", "any", "-CAfile", str(trusted),
                     "-in", str(signed), "-out", os.devnull)
    return profile, trusted if roots else None


def read_profile(content):
    """A profile, signed or not; OpenSSL verifies the signature, whoever's it is."""
    if not content.startswith(b"<?xml"):
        content = scep.openssl("cms", "-verify", "-inform", "DER", "-binary", "-noverify", data=content)
    return plistlib.loads(content, fmt=plistlib.FMT_XML)


def payload(profile, kind):
    return next(p for p in profile["PayloadContent"] if p["PayloadType"] == kind)


class Device:
    def __init__(self, profile, trusted, directory, udid=None, identity=None):
        self.directory, self.trusted = directory, trusted
        self.profile_identifier = profile["PayloadIdentifier"]
        self.mdm = payload(profile, "com.apple.mdm")
        self.udid = udid or str(uuid.uuid4()).upper()
        # Only what the profile brought is trusted from here on.
        self.context = ssl.create_default_context(cafile=str(trusted) if trusted else None)
        if identity:
            self.certificate_file, self.key_file = identity
        else:
            self.certificate_file, self.key_file = directory / "device.pem", directory / "device.key"
            self.get_certificate(payload(profile, "com.apple.security.scep")["PayloadContent"])
        self.context.load_cert_chain(self.certificate_file, self.key_file)
        url = urllib.parse.urlsplit(self.mdm["ServerURL"])
        self.path = url.path
        self.line = http.client.HTTPSConnection(url.hostname, url.port or 443, context=self.context, timeout=30)

    def get_certificate(self, settings):
        client = scep.Scep(settings["URL"], self.context)
        ca = client.authority()
        assert ca.fingerprint(hashes.SHA1()) == settings["CAFingerprint"], "the CA is not the profile's"
        pairs = [pair for rdn in settings["Subject"] for pair in rdn]
        subject = x509.Name([x509.NameAttribute(NAMES[name], value) for name, value in pairs])
        key = scep.new_key()
        certificate = client.enroll(key, subject, settings["Challenge"])
        again = client.enroll(key, subject, settings["Challenge"])
        assert again == certificate, "a lost answer: the same challenge and key get the same certificate"
        try:
            client.enroll(scep.new_key(), subject, settings["Challenge"])
            raise AssertionError("a used challenge with another key got a certificate")
        except scep.ScepFailure as failure:
            assert str(failure) == "2", failure
        self.keep(key, certificate)
        ca_file = self.directory / "device-ca.pem"
        ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        scep.openssl("verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", str(ca_file),
                     str(self.certificate_file))

    def keep(self, key, certificate):
        self.key_file.touch(mode=0o600)
        self.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def put(self, content_type, message):
        """Sends a message; returns the property list of the answer, none for an empty one."""
        answer, content = self.send(content_type, message)
        assert answer.status == 200, (answer.status, content)
        if not content:
            assert answer.headers["Content-Length"] == "0", answer.headers.as_string()
            return None
        # A device reads XML only where it expects XML.
        return plistlib.loads(content, fmt=plistlib.FMT_XML)

    def send(self, content_type, message):
        body = plistlib.dumps({**message, "UDID": self.udid})
        headers = {"Content-Type": content_type}
        if self.mdm.get("SignMessage"):
            headers["Mdm-Signature"] = self.sign(body)
        self.line.request("PUT", self.path, body, headers)
        answer = self.line.getresponse()
        return answer, answer.read()

    def sign(self, body):
        message = self.directory / "message"
        message.write_bytes(body)
        signature = scep.openssl(
            "cms", "-sign", "-binary", "-nosmimecap", "-outform", "DER", "-md", "sha256", "-in", str(message),
            "-signer", str(self.certificate_file), "-inkey", str(self.key_file),
        )
        return base64.b64encode(signature).decode()

    def check_in(self, kind, **members):
        return self.put("application/x-apple-aspen-mdm-checkin", {"MessageType": kind, **members})

    def report(self, status, **members):
        return self.put("application/x-apple-aspen-mdm", {"Status": status, **members})

    def enroll(self):
        topic = self.mdm["Topic"]
        self.check_in("Authenticate", Topic=topic, SerialNumber="PY" + self.udid[:8], DeviceName="Python device",
                      Model="MTM93", ModelName="iPhone", ProductName="iPhone15,4", OSVersion="18.1", BuildVersion="22B83")
        self.check_in("TokenUpdate", Topic=topic, Token=os.urandom(32), PushMagic=str(uuid.uuid4()),
                      UnlockToken=os.urandom(64))
        assert self.check_in("GetBootstrapToken") is None, "there is none yet"
        token = os.urandom(40)
        self.check_in("SetBootstrapToken", BootstrapToken=token)
        assert self.check_in("GetBootstrapToken") == {"BootstrapToken": token}

    def is_removed(self):
        """Whether the server tells the device to leave. Source: Apple, ErrorCodeUnrecognizedDevice."""
        answer, content = self.send("application/x-apple-aspen-mdm", {"Status": "Idle"})
        if answer.status != 403:
            return False
        assert answer.headers["Content-Type"] == "application/json", answer.headers.as_string()
        assert json.loads(content)["code"] == "com.apple.unrecognized.device", content
        return True

    def fetch(self, url):
        """What the profile's trust leads to; the device shows no certificate there."""
        context = ssl.create_default_context(cafile=str(self.trusted) if self.trusted else None)
        with urllib.request.urlopen(url, context=context, timeout=30) as answer:
            return answer.read()

    def install_app(self, command):
        """The manifest, and the package that it leads to."""
        manifest = plistlib.loads(self.fetch(command["ManifestURL"]), fmt=plistlib.FMT_XML)
        (item,) = manifest["items"]
        assert item["metadata"]["bundle-identifier"] == "org.example.notes", item
        (package,) = [asset["url"] for asset in item["assets"] if asset["kind"] == "software-package"]
        with zipfile.ZipFile(io.BytesIO(self.fetch(package))) as files:
            info = plistlib.loads(files.read("Payload/Notes.app/Info.plist"))
        assert info["CFBundleVersion"] == item["metadata"]["bundle-version"], (info, item)
        return {"Identifier": info["CFBundleIdentifier"], "State": "Installing"}

    def connect(self):
        """One connection: from Idle to the empty answer. Returns the request types that were done."""
        done = []
        command = self.report("Idle")
        while command:
            request = command["Command"]["RequestType"]
            extra = {}
            if request == "DeviceInformation":
                known = {"UDID": self.udid, "DeviceName": "Python device", "OSVersion": "18.1", "Model": "MTM93"}
                extra["QueryResponses"] = {q: known[q] for q in command["Command"]["Queries"] if q in known}
            elif request == "SecurityInfo":
                extra["SecurityInfo"] = {"PasscodePresent": True, "HardwareEncryptionCaps": 3}
            elif request == "ProfileList":
                inside = {key: self.mdm[key] for key in ("PayloadType", "PayloadIdentifier", "PayloadUUID")}
                one = {"PayloadIdentifier": self.profile_identifier, "PayloadContent": [inside]}
                extra["ProfileList"] = [one]
            elif request == "InstallProfile":
                assert read_profile(command["Command"]["Payload"])["PayloadType"] == "Configuration"
            elif request == "InstallApplication":
                extra.update(self.install_app(command["Command"]))
            elif request == "EraseDevice":
                again = read_profile(command["Command"]["ReturnToService"]["MDMProfileData"])
                assert payload(again, "com.apple.mdm")["ServerURL"] == self.mdm["ServerURL"]
            done.append(request)
            command = self.report("Acknowledged", CommandUUID=command["CommandUUID"], **extra)
        return done


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("link")
    arguments.add_argument("--wait-for", default="DeviceLock")
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--directory", type=pathlib.Path)
    arguments.add_argument("--udid-file", type=pathlib.Path)
    arguments.add_argument("--identity", type=pathlib.Path, nargs=2)
    arguments.add_argument("--enrolled", metavar="UDID")
    arguments.add_argument("--removed", action="store_true")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.directory or pathlib.Path(temporary)
        headers, page = fetch(options.link)
        assert headers.get_content_type() == "text/html" and b"<html" in page
        assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
        headers, der = fetch(options.link + "/profile")
        assert headers["Content-Type"] == "application/x-apple-aspen-config", headers["Content-Type"]
        profile, trusted = open_profile(der, directory)
        device = Device(profile, trusted, directory, options.enrolled, options.identity)
        if not options.enrolled:
            device.enroll()
            first = device.connect()
            # The server did not make the profile behind a certificate from elsewhere, and asks what it is.
            asked = ["DeviceInformation", "SecurityInfo"] + (["ProfileList"] if options.identity else [])
            assert first == asked, first
            print(f"enrolled {device.udid}", flush=True)
        if options.udid_file:
            options.udid_file.write_text(device.udid)
        if options.removed:
            assert device.is_removed()
            return
        for _ in range(options.seconds):
            if options.wait_for == "nothing":
                device.connect()
                return
            if options.wait_for in device.connect():
                print(f"answered {options.wait_for}")
                return
            time.sleep(1)
        sys.exit(f"no {options.wait_for} came in {options.seconds} s")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:
        sys.exit(f"{' '.join(failed.cmd)}: {failed.stderr.decode()}")
