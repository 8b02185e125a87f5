//! Certificates and access rules: what a deployment's transport security is made of.

mod acls;
mod certs;
mod rules;

pub(crate) use acls::AclsArgs;
pub(crate) use certs::CertsArgs;
