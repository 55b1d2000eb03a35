// SPDX-License-Identifier: Apache-2.0
//! Whole objects in the documents are ones that llb accepts.

use llb_agent::source::snapshot_of;

use crate::blocks::blocks;

#[test]
fn manifests_in_documents_have_no_problem() {
    let mut services = 0;
    for block in blocks("yaml").iter().filter(|block| block.text.contains("\nkind: Service\n")) {
        let snapshot = snapshot_of(block.text.as_bytes(), true)
            .unwrap_or_else(|error| panic!("{}: {error}", block.place));
        assert_eq!(snapshot.problems, [], "{}", block.place);
        services += snapshot.services.len();
    }
    assert!(services > 0, "no document has a Service");
}
