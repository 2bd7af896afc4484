//! Certificates, CMS, SCEP: messages and state machines. Pure; the only room that knows openssl.
