"""A profile and an app's package, made when they are needed.

    content.py DIRECTORY: writes wifi.mobileconfig and notes.ipa there
"""

import pathlib
import plistlib
import sys
import zipfile


def profile():
    """A profile that connects to a network which is nowhere."""
    wifi = {
        "PayloadType": "com.apple.wifi.managed",
        "PayloadVersion": 1,
        "PayloadIdentifier": "org.example.wifi.1",
        "PayloadUUID": "0F0C5F5E-54B5-4C7E-8A51-6A4A3F2E1D0C",
        "SSID_STR": "Example",
        "EncryptionType": "None",
    }
    return plistlib.dumps({
        "PayloadType": "Configuration",
        "PayloadVersion": 1,
        "PayloadIdentifier": "org.example.wifi",
        "PayloadUUID": "6A1B6D0E-2A5E-4D0C-9A3E-0D5F4C3B2A19",
        "PayloadDisplayName": "Wi-Fi",
        "PayloadContent": [wifi],
    })


def write_package(path):
    """An app that is none, but for its Info.plist."""
    info = {
        "CFBundleIdentifier": "org.example.notes",
        "CFBundleName": "Notes",
        "CFBundleVersion": "42",
        "CFBundleShortVersionString": "1.2",
        "CFBundlePackageType": "APPL",
        "MinimumOSVersion": "16.0",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("Payload/Notes.app/Info.plist", plistlib.dumps(info, fmt=plistlib.FMT_BINARY))
        package.writestr("Payload/Notes.app/Notes", bytes(range(256)) * 1000)


if __name__ == "__main__":
    place = pathlib.Path(sys.argv[1])
    (place / "wifi.mobileconfig").write_bytes(profile())
    write_package(place / "notes.ipa")
