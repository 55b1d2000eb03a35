//! temporary
use crate::Named;
pub fn all() -> Vec<Named> { vec![Named { name: "x::y", run: |case| {
    println!("{}", case.cluster.kubectl(&["get","nodes","-o","wide"])?);
    for node in ["node-1","node-2"] { case.cluster.add_pod(&case.namespace, "echo", node)?; }
    case.cluster.apply(&case.namespace, "apiVersion: v1\nkind: Service\nmetadata: {name: echo}\nspec: {type: LoadBalancer, ipFamilyPolicy: RequireDualStack, selector: {app: echo}, ports: [{name: t, port: 8888, nodePort: 30888},{name: u, port: 8888, protocol: UDP, nodePort: 30889}]}")?;
    std::thread::sleep(std::time::Duration::from_secs(3));
    println!("{}", case.cluster.kubectl(&["get","svc,endpointslices,pods","-A","-o","wide"])?);
    println!("{}", case.cluster.nodes_debug()?);
    Ok(())
} }] }
