/// The last line of a benchmark: one JSON object of numbers, in this order, rounded to three digits behind the point.
/// A number that is none (nothing was measured) is `null`.
pub fn last_line(numbers: &[(&str, f64)]) -> String {
    let members: Vec<String> = numbers
        .iter()
        .map(|(name, number)| {
            let rounded = (number * 1e3).round() / 1e3;
            format!("\"{name}\":{}", serde_json::Value::from(rounded))
        })
        .collect();
    format!("{{{}}}", members.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_json_object() {
        let line = last_line(&[("register_cpu", 4.123_45), ("rss_10k", 12.0)]);
        assert_eq!(line, r#"{"register_cpu":4.123,"rss_10k":12.0}"#);
    }
}
