//! What LwM2M talks about: paths, typed values, nodes, and the object models that give them their meaning.

mod conform;
mod ddf;
pub mod fuzz;
mod model;
mod node;
mod path;
mod registry;
mod table;
mod value;

pub use conform::TypeMismatch;
pub use ddf::{DdfError, MAX_DDF_BYTES, MAX_DDF_OBJECTS, MAX_DDF_RESOURCES};
pub use model::{ObjectModel, Operations, ResourceModel, UnknownOperation};
pub use node::{InstanceNode, Node, ObjectNode, ResourceContent, ResourceNode};
pub use path::{MAX_ID, ObjectPath, PathError};
pub use registry::Registry;
pub use value::{Value, ValueType};
