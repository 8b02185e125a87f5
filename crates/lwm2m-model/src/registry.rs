use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use crate::{DdfError, ObjectModel, ObjectPath, ResourceModel, ddf, table};

/// The object models known, by id and version. Clones are cheap: they share the models.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    objects: BTreeMap<(u16, Version), Arc<ObjectModel>>,
}

impl Registry {
    /// A registry that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The objects of OMA's public registry, from the table built into this crate (`schemas/oma`).
    pub fn oma() -> Self {
        static OMA: LazyLock<Registry> = LazyLock::new(|| {
            let mut registry = Registry::new();
            table::built_in()
                .into_iter()
                .for_each(|model| registry.add(model));
            registry
        });
        OMA.clone()
    }

    /// Adds a model; one with the same id and version is replaced.
    pub fn add(&mut self, model: ObjectModel) {
        self.objects
            .insert((model.id, Version::parse(&model.version)), Arc::new(model));
    }

    /// Adds the objects of a DDF file (OMA's XML schema for LwM2M objects) and returns them. One with the id
    /// and version of a known object replaces it. On an error nothing is added.
    pub fn add_ddf(&mut self, xml: &str) -> Result<Vec<ObjectModel>, DdfError> {
        let models = ddf::read(xml)?;
        models.iter().cloned().for_each(|model| self.add(model));
        Ok(models)
    }

    /// What a device means that has these objects in these versions: of each, only that version, where it is
    /// known. A new major version may change a resource's type. Objects not named keep all their versions.
    pub fn for_device<'v>(&self, versions: impl IntoIterator<Item = (u16, &'v str)>) -> Self {
        let wanted: BTreeMap<u16, Version> = versions
            .into_iter()
            .map(|(id, version)| (id, Version::parse(version)))
            .filter(|named| self.objects.contains_key(named))
            .collect();
        let mut narrowed = self.clone();
        narrowed
            .objects
            .retain(|(id, version), _| wanted.get(id).is_none_or(|wanted| wanted == version));
        narrowed
    }

    /// The object's highest version known.
    pub fn object(&self, id: u16) -> Option<&ObjectModel> {
        self.versions(id).next_back()
    }

    /// The object in exactly this version, such as `1.1`.
    pub fn object_version(&self, id: u16, version: &str) -> Option<&ObjectModel> {
        self.objects
            .get(&(id, Version::parse(version)))
            .map(Arc::as_ref)
    }

    /// The versions known of an object, lowest first.
    pub fn versions(&self, id: u16) -> impl DoubleEndedIterator<Item = &ObjectModel> {
        self.objects
            .range((id, Version::MIN)..=(id, Version::MAX))
            .map(|(_, model)| model.as_ref())
    }

    /// The model of the resource at (or around) this path, in the object's highest version that has it;
    /// `None` for paths above a resource.
    pub fn resource(&self, path: &ObjectPath) -> Option<&ResourceModel> {
        let (object, resource) = (path.object_id()?, path.resource_id()?);
        self.versions(object)
            .rev()
            .find_map(|model| model.resources.get(&resource))
    }

    /// Every model, by id, then by version.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectModel> {
        self.objects.values().map(Arc::as_ref)
    }

    /// How many models are known, every version counted.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

/// `1.10` is later than `1.9`, so versions sort as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl Version {
    const MIN: Self = Self(0, 0);
    const MAX: Self = Self(u32::MAX, u32::MAX);

    /// Text that is no version counts as 1.0, the version of objects that name none.
    fn parse(text: &str) -> Self {
        let (major, minor) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
        match (major.parse(), minor.parse()) {
            (Ok(major), Ok(minor)) => Self(major, minor),
            _ => Self(1, 0),
        }
    }
}
