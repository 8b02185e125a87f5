//! Reads DDF files: OMA's XML form of object definitions (TS 1.1 core, appendix D.1).
//!
//! It is tolerant where files in the field differ (unknown elements, order, missing optional elements, white
//! space, comments) and strict where a guess could be wrong (ids, types, operations). Entities are never
//! expanded, but for XML's own five and character numbers.

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use thiserror::Error;

use crate::{MAX_ID, ObjectModel, Operations, ResourceModel, ValueType};

/// The largest DDF file read, in bytes: over a hundred times what OMA's own files have.
pub const MAX_DDF_BYTES: usize = 4 * 1024 * 1024;
/// The most objects read from one DDF file.
pub const MAX_DDF_OBJECTS: usize = 1024;
/// The most resources read from one DDF file.
pub const MAX_DDF_RESOURCES: usize = 16_384;

/// Why a DDF file was not read. Lines are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DdfError {
    #[error(
        "the file has {bytes} bytes, more than the {MAX_DDF_BYTES} that are read: split it, one object to a file"
    )]
    TooLarge { bytes: usize },
    #[error(
        "line {line}: the file has more than {MAX_DDF_OBJECTS} objects or {MAX_DDF_RESOURCES} resources: split it"
    )]
    TooMany { line: usize },
    #[error("line {line}: not well-formed XML: {reason}")]
    Xml { line: usize, reason: String },
    #[error("the file has no <Object>: it is no definition of LwM2M objects")]
    NoObject,
    #[error("line {line}: the {within} that ends here has no {missing}")]
    Missing {
        line: usize,
        within: String,
        missing: &'static str,
    },
    #[error("line {line}: {element} is {found:?}: {expected}")]
    BadValue {
        line: usize,
        element: &'static str,
        found: String,
        expected: &'static str,
    },
    #[error("line {line}: object {object} has a second resource {resource}")]
    DuplicateResource {
        line: usize,
        object: u16,
        resource: u16,
    },
}

pub(crate) fn read(xml: &str) -> Result<Vec<ObjectModel>, DdfError> {
    if xml.len() > MAX_DDF_BYTES {
        return Err(DdfError::TooLarge { bytes: xml.len() });
    }
    let xml = xml.trim_start_matches('\u{feff}');
    let mut ddf = Ddf::new(xml);
    let mut models = Vec::new();
    loop {
        match ddf.next()? {
            Event::Start(start) if local(&start) == "Object" => {
                if models.len() == MAX_DDF_OBJECTS {
                    return Err(DdfError::TooMany { line: ddf.line() });
                }
                models.push(ddf.object()?);
            }
            Event::Eof if models.is_empty() => return Err(DdfError::NoObject),
            Event::Eof => return Ok(models),
            _ => {}
        }
    }
}

struct Ddf<'x> {
    xml: &'x str,
    reader: Reader<&'x [u8]>,
    depth: usize,
    resources: usize,
}

impl<'x> Ddf<'x> {
    fn new(xml: &'x str) -> Self {
        let mut reader = Reader::from_str(xml);
        // So that <Units/> and <Units></Units> are the same to what follows.
        reader.config_mut().expand_empty_elements = true;
        Self {
            xml,
            reader,
            depth: 0,
            resources: 0,
        }
    }

    /// The next event; an end of the file within an element is an error here, so that no loop has to ask.
    fn next(&mut self) -> Result<Event<'x>, DdfError> {
        let event = self.reader.read_event();
        let event = event.map_err(|e| DdfError::Xml {
            line: self.line_at(self.reader.error_position()),
            reason: e.to_string(),
        })?;
        match event {
            Event::Start(_) => self.depth += 1,
            Event::End(_) => self.depth = self.depth.saturating_sub(1),
            Event::Eof if self.depth > 0 => {
                return Err(self.malformed("the file ends within an element"));
            }
            _ => {}
        }
        Ok(event)
    }

    fn object(&mut self) -> Result<ObjectModel, DdfError> {
        let (mut id, mut name, mut description) = (None, String::new(), None);
        let (mut version, mut lwm2m_version) = ("1.0".to_owned(), "1.0".to_owned());
        let (mut multiple, mut mandatory) = (false, false);
        let mut resources = BTreeMap::new();
        let mut duplicate = None;
        loop {
            match self.next()? {
                Event::Start(start) => match local(&start) {
                    "Name" => name = self.words()?,
                    "Description1" => description = self.prose()?,
                    "ObjectID" => id = Some(self.id("ObjectID")?),
                    "LWM2MVersion" => lwm2m_version = self.version("LWM2MVersion")?,
                    "ObjectVersion" => version = self.version("ObjectVersion")?,
                    "MultipleInstances" => multiple = self.multiple()?,
                    "Mandatory" => mandatory = self.mandatory()?,
                    "Resources" => duplicate = duplicate.or(self.resources(&mut resources)?),
                    _ => self.skip()?,
                },
                Event::End(_) => break,
                _ => {}
            }
        }
        let missing = |within: String, missing| DdfError::Missing {
            line: self.line(),
            within,
            missing,
        };
        let id = id.ok_or_else(|| missing(format!("object {name:?}"), "ObjectID"))?;
        if name.is_empty() {
            return Err(missing(format!("object {id}"), "Name"));
        }
        if let Some((offset, resource)) = duplicate {
            let line = self.line_at(offset);
            return Err(DdfError::DuplicateResource {
                line,
                object: id,
                resource,
            });
        }
        Ok(ObjectModel {
            id,
            version,
            lwm2m_version,
            name,
            multiple,
            mandatory,
            resources,
            description,
        })
    }

    /// Returns the id of the first resource that stands twice, and the offset where it ends.
    fn resources(
        &mut self,
        resources: &mut BTreeMap<u16, ResourceModel>,
    ) -> Result<Option<(u64, u16)>, DdfError> {
        let mut duplicate = None;
        loop {
            match self.next()? {
                Event::Start(start) if local(&start) == "Item" => {
                    self.resources += 1;
                    if self.resources > MAX_DDF_RESOURCES {
                        return Err(DdfError::TooMany { line: self.line() });
                    }
                    let resource = self.resource(&start)?;
                    let id = resource.id;
                    if resources.insert(id, resource).is_some() {
                        duplicate = duplicate.or(Some((self.reader.buffer_position(), id)));
                    }
                }
                Event::Start(_) => self.skip()?,
                Event::End(_) => return Ok(duplicate),
                _ => {}
            }
        }
    }

    fn resource(&mut self, start: &BytesStart<'_>) -> Result<ResourceModel, DdfError> {
        let id = self.item_id(start)?;
        let mut resource = ResourceModel {
            id,
            name: String::new(),
            operations: Operations::NONE,
            multiple: false,
            mandatory: false,
            value_type: None,
            range: String::new(),
            units: String::new(),
            description: None,
        };
        loop {
            match self.next()? {
                Event::Start(start) => match local(&start) {
                    "Name" => resource.name = self.words()?,
                    "Operations" => resource.operations = self.operations()?,
                    "MultipleInstances" => resource.multiple = self.multiple()?,
                    "Mandatory" => resource.mandatory = self.mandatory()?,
                    "Type" => resource.value_type = self.value_type()?,
                    "RangeEnumeration" => resource.range = self.words()?,
                    "Units" => resource.units = self.words()?,
                    "Description" => resource.description = self.prose()?,
                    _ => self.skip()?,
                },
                Event::End(_) => break,
                _ => {}
            }
        }
        if resource.name.is_empty() {
            return Err(DdfError::Missing {
                line: self.line(),
                within: format!("resource {id}"),
                missing: "Name",
            });
        }
        Ok(resource)
    }

    fn item_id(&self, start: &BytesStart<'_>) -> Result<u16, DdfError> {
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|e| self.malformed(e))?;
            if attribute.key.local_name().as_ref() == "ID" {
                return self.parse_id("ID", &attribute.value);
            }
        }
        Err(DdfError::Missing {
            line: self.line(),
            within: "start of an Item".to_owned(),
            missing: "ID",
        })
    }

    fn id(&mut self, element: &'static str) -> Result<u16, DdfError> {
        let text = self.text()?;
        self.parse_id(element, &text)
    }

    fn parse_id(&self, element: &'static str, text: &str) -> Result<u16, DdfError> {
        let digits = text.trim();
        match digits.parse() {
            Ok(id) if id <= MAX_ID && digits.bytes().all(|b| b.is_ascii_digit()) => Ok(id),
            _ => Err(self.bad(element, digits, "an id is a whole number from 0 to 65534")),
        }
    }

    /// `major.minor`; `1.0` when the element is empty.
    fn version(&mut self, element: &'static str) -> Result<String, DdfError> {
        let text = self.words()?;
        if text.is_empty() {
            return Ok("1.0".to_owned());
        }
        let (major, minor) = text.split_once('.').unwrap_or((&text, "0"));
        let number = |part: &str| {
            part.bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| part.parse::<u16>().ok())
                .flatten()
        };
        match (number(major), number(minor)) {
            (Some(major), Some(minor)) => Ok(format!("{major}.{minor}")),
            _ => Err(self.bad(
                element,
                &text,
                "a version is two numbers with a point between, such as 1.1",
            )),
        }
    }

    fn multiple(&mut self) -> Result<bool, DdfError> {
        self.either(
            "MultipleInstances",
            "Single",
            "Multiple",
            "write Single or Multiple",
        )
    }

    fn mandatory(&mut self) -> Result<bool, DdfError> {
        self.either(
            "Mandatory",
            "Optional",
            "Mandatory",
            "write Mandatory or Optional",
        )
    }

    fn either(
        &mut self,
        element: &'static str,
        no: &str,
        yes: &str,
        expected: &'static str,
    ) -> Result<bool, DdfError> {
        let text = self.words()?;
        if text.eq_ignore_ascii_case(yes) {
            Ok(true)
        } else if text.is_empty() || text.eq_ignore_ascii_case(no) {
            Ok(false)
        } else {
            Err(self.bad(element, &text, expected))
        }
    }

    fn operations(&mut self) -> Result<Operations, DdfError> {
        let text = self.words()?;
        if text.eq_ignore_ascii_case("none") {
            return Ok(Operations::NONE);
        }
        text.parse().map_err(|_| {
            self.bad(
                "Operations",
                &text,
                "write R, W, E, a combination of them, or nothing",
            )
        })
    }

    fn value_type(&mut self) -> Result<Option<ValueType>, DdfError> {
        let text = self.words()?;
        if text.is_empty() || text.eq_ignore_ascii_case("none") {
            return Ok(None);
        }
        ValueType::from_oma_name(&text).map(Some).ok_or_else(|| {
            let expected = "the types are String, Integer, Unsigned Integer, Float, Boolean, Opaque, Time, Objlnk, Corelnk";
            self.bad("Type", &text, expected)
        })
    }

    /// Text with each run of white space made one space: files break lines within names and ranges.
    fn words(&mut self) -> Result<String, DdfError> {
        Ok(self
            .text()?
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "))
    }

    fn prose(&mut self) -> Result<Option<String>, DdfError> {
        let text = self.text()?;
        Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
    }

    /// The text of the element that has just started, up to its end; elements within are left out.
    fn text(&mut self) -> Result<String, DdfError> {
        let mut text = String::new();
        loop {
            match self.next()? {
                Event::Text(part) => text.push_str(&part.xml10_content()),
                Event::CData(part) => text.push_str(&part.xml10_content()),
                Event::GeneralRef(reference) => match reference
                    .resolve_char_ref()
                    .map_err(|e| self.malformed(e))?
                {
                    Some(character) => text.push(character),
                    None => text.push_str(self.predefined(&reference)?),
                },
                Event::Start(_) => self.skip()?,
                Event::End(_) => return Ok(text),
                _ => {}
            }
        }
    }

    fn predefined(&self, name: &str) -> Result<&'static str, DdfError> {
        Ok(match name {
            "amp" => "&",
            "lt" => "<",
            "gt" => ">",
            "quot" => "\"",
            "apos" => "'",
            _ => {
                return Err(self.malformed(
                    "an entity other than &amp; &lt; &gt; &quot; &apos;, and no other is expanded",
                ));
            }
        })
    }

    /// Passes over the element that has just started.
    fn skip(&mut self) -> Result<(), DdfError> {
        let outside = self.depth - 1;
        while self.depth > outside {
            self.next()?;
        }
        Ok(())
    }

    fn malformed(&self, reason: impl ToString) -> DdfError {
        DdfError::Xml {
            line: self.line(),
            reason: reason.to_string(),
        }
    }

    fn bad(&self, element: &'static str, found: &str, expected: &'static str) -> DdfError {
        DdfError::BadValue {
            line: self.line(),
            element,
            found: found.chars().take(64).collect(),
            expected,
        }
    }

    /// The line the reader has come to. It is counted from the file's start: for errors only.
    fn line(&self) -> usize {
        self.line_at(self.reader.buffer_position())
    }

    fn line_at(&self, offset: u64) -> usize {
        let offset = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(self.xml.len());
        1 + self.xml.as_bytes()[..offset]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
    }
}

/// The element's name without a namespace prefix.
fn local<'a>(start: &'a BytesStart<'_>) -> &'a str {
    start.local_name().into_inner()
}
