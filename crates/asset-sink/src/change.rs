//! What registration events make of the endpoints, whichever graph they go into.

use std::collections::{BTreeMap, BTreeSet};

use lwm2m_model::ObjectPath;
use records::{
    AvroLink, RegistrationDelete, RegistrationNew, RegistrationResponse, RegistrationUpdate,
};

/// An endpoint's place: its name is its own at its server only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) server: String,
    pub(crate) name: String,
}

/// An object of a device: object id and instance id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Link {
    pub(crate) object: u16,
    pub(crate) instance: u16,
}

/// A value of an endpoint's property.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Property {
    Text(String),
    Number(i64),
    Flag(bool),
    Map(BTreeMap<String, String>),
}

/// What one or several events make of one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) key: Key,
    /// Whether a registration is among the events: then the endpoint is made where it is missing, and properties that
    /// are not set go.
    pub(crate) replace: bool,
    /// By the property's name.
    pub(crate) set: BTreeMap<&'static str, Property>,
    /// The objects from now on; `None`: as they are.
    pub(crate) links: Option<BTreeSet<Link>>,
    /// Which records of the batch led to it.
    pub(crate) records: Vec<usize>,
}

/// The properties of `Endpoints` that are there only when a device sent them.
pub(crate) const OPTIONAL: [&str; 2] = ["attributes", "sms"];
/// The most links of one endpoint; a device with more objects is none.
const MOST_LINKS: usize = 10_000;

/// Folds a batch's events, in their order, into one change for each endpoint.
pub(crate) fn fold(events: Vec<(usize, RegistrationResponse)>) -> Vec<Change> {
    let mut changes: BTreeMap<Key, Change> = BTreeMap::new();
    for (record, event) in events {
        let key = Key {
            server: event.server_id().to_owned(),
            name: event.ep().to_owned(),
        };
        let change = changes.entry(key.clone()).or_insert_with(|| Change {
            key,
            replace: false,
            set: BTreeMap::new(),
            links: None,
            records: Vec::new(),
        });
        change.records.push(record);
        match event {
            RegistrationResponse::New(new) => change.register(new),
            RegistrationResponse::Update(update) => change.update(update),
            RegistrationResponse::Delete(delete) => change.delete(&delete),
        }
    }
    changes.into_values().collect()
}

impl Change {
    fn register(&mut self, new: RegistrationNew) {
        self.replace = true;
        self.set = BTreeMap::from([
            ("regDate", Property::Number(new.reg_date)),
            ("regId", Property::Text(new.reg_id)),
            ("regPort", Property::Number(new.reg_port.into())),
            ("regAddress", Property::Text(new.reg_addr)),
            ("port", Property::Number(new.port.into())),
            ("address", Property::Text(new.address)),
            ("lt", Property::Number(new.lt)),
            ("expired", Property::Flag(false)),
            ("ver", Property::Text(new.ver)),
            ("bnd", Property::Text(new.bnd.name().to_owned())),
            ("regLastUpdate", Property::Number(new.last_up)),
            ("online", Property::Flag(true)),
        ]);
        self.optional("sms", new.sms.map(Property::Text));
        self.optional("attributes", new.attributes.map(Property::Map));
        self.links = Some(links(&new.links));
    }

    fn update(&mut self, update: RegistrationUpdate) {
        self.set.extend([
            ("regId", Property::Text(update.reg_id)),
            ("port", Property::Number(update.port.into())),
            ("address", Property::Text(update.address)),
            ("regLastUpdate", Property::Number(update.last_up)),
            ("online", Property::Flag(true)),
        ]);
        self.optional("lt", update.lt.map(Property::Number));
        let bnd = update.bnd.map(|bnd| Property::Text(bnd.name().to_owned()));
        self.optional("bnd", bnd);
        self.optional("sms", update.sms.map(Property::Text));
        self.optional("attributes", update.attributes.map(Property::Map));
        if let Some(sent) = update.links {
            self.links = Some(links(&sent));
        }
    }

    fn delete(&mut self, delete: &RegistrationDelete) {
        self.set.extend([
            ("online", Property::Flag(false)),
            ("expired", Property::Flag(delete.expired)),
            ("regLastUpdate", Property::Number(delete.last_up)),
        ]);
    }

    fn optional(&mut self, name: &'static str, value: Option<Property>) {
        if let Some(value) = value {
            self.set.insert(name, value);
        }
    }
}

/// The links that are `/o/i`; others are skipped (contract, section 7).
fn links(sent: &[AvroLink]) -> BTreeSet<Link> {
    let mut links = BTreeSet::new();
    for link in sent {
        match link.url.parse() {
            Ok(ObjectPath::Instance(object, instance)) => {
                links.insert(Link { object, instance });
            }
            _ => tracing::debug!(
                url = link.url,
                "a link that is not /object/instance; skipped"
            ),
        }
        if links.len() >= MOST_LINKS {
            tracing::warn!(
                links = sent.len(),
                "only the first {MOST_LINKS} links of a registration are kept"
            );
            break;
        }
    }
    links
}
