//! `#[derive(Fields)]`: makes a struct the declaration of the fields that a rule reads.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Data, DeriveInput, Error, GenericParam, LitStr, Result, parse_macro_input, spanned::Spanned};

/// Declares the fields of a struct as fields of events.
///
/// Types: `&'a str`, `i64`, `f64`, `bool`, or an `Option` of one of them for fields that may be missing.
/// `#[field(name = "...")]` gives a field another name in the event.
/// Each field also becomes a constant (`ms_played` → `Play::MS_PLAYED`) for use in plans.
#[proc_macro_derive(Fields, attributes(field))]
pub fn derive_fields(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

/// One field of the struct.
struct Member<'a> {
    ident: &'a syn::Ident,
    kind: &'a syn::Type,
    name: String,
}

fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let members = members(input)?;
    let ident = &input.ident;
    let lifetime = lifetime(input)?;
    // The struct as the implementation names it, and with the lifetime of a batch.
    let (generics, this, row) = match lifetime {
        Some(_) => (quote!(<'x>), quote!(#ident<'static>), quote!(#ident<'batch>)),
        None => (quote!(), quote!(#ident), quote!(#ident)),
    };
    let idents: Vec<_> = members.iter().map(|member| member.ident).collect();
    let indices = 0..members.len();
    let constants = members.iter().map(|member| {
        let constant = format_ident!("{}", member.ident.to_string().trim_start_matches("r#").to_uppercase());
        let kind = with_lifetime(member.kind, lifetime);
        let name = &member.name;
        let doc = format!("The field `{name}`.");
        quote! {
            #[doc = #doc]
            pub const #constant: ::pelton_sdk::Field = ::pelton_sdk::Field {
                name: #name,
                kind: <#kind as ::pelton_sdk::Value<'static>>::KIND,
                need: <#kind as ::pelton_sdk::Value<'static>>::NEED,
            };
        }
    });
    let names = members
        .iter()
        .map(|member| format_ident!("{}", member.ident.to_string().trim_start_matches("r#").to_uppercase()));
    let impl_this = if lifetime.is_some() { quote!(#ident #generics) } else { quote!(#ident) };
    Ok(quote! {
        #[allow(dead_code, reason = "a rule need not name each of its fields")]
        impl #generics #impl_this {
            #(#constants)*
        }

        impl ::pelton_sdk::Fields for #this {
            type Row<'batch> = #row;
            const FIELDS: &'static [::pelton_sdk::Field] = &[#(<#this>::#names),*];

            fn read<'batch>(columns: &::pelton_sdk::Columns<'batch>, row: usize) -> #row {
                #ident { #(#idents: ::pelton_sdk::Value::read(columns.column(#indices), row)),* }
            }

            fn write(row: &Self::Row<'_>, columns: &mut [::pelton_sdk::raw::Column]) {
                let #ident { #(#idents),* } = row;
                let mut columns = columns.iter_mut();
                #(::pelton_sdk::Value::write(#idents, columns.next().expect("one column per field"));)*
            }
        }
    })
}

fn members(input: &DeriveInput) -> Result<Vec<Member<'_>>> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new(input.span(), "`Fields` needs a struct"));
    };
    data.fields
        .iter()
        .map(|field| {
            let ident = field.ident.as_ref().ok_or_else(|| Error::new(field.span(), "`Fields` needs named fields"))?;
            let mut name = ident.to_string().trim_start_matches("r#").to_owned();
            for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("field")) {
                attribute.parse_nested_meta(|meta| {
                    if !meta.path.is_ident("name") {
                        return Err(meta.error("only `name = \"...\"` is known"));
                    }
                    name = meta.value()?.parse::<LitStr>()?.value();
                    Ok(())
                })?;
            }
            Ok(Member { ident, kind: &field.ty, name })
        })
        .collect()
}

/// The one lifetime of the struct, if it has one.
fn lifetime(input: &DeriveInput) -> Result<Option<&syn::Lifetime>> {
    let mut found = None;
    for parameter in &input.generics.params {
        match parameter {
            GenericParam::Lifetime(lifetime) if found.is_none() => found = Some(&lifetime.lifetime),
            other => return Err(Error::new(other.span(), "`Fields` allows one lifetime and no other parameter")),
        }
    }
    Ok(found)
}

/// The type with the struct's lifetime replaced by `'static`.
fn with_lifetime(kind: &syn::Type, lifetime: Option<&syn::Lifetime>) -> TokenStream {
    let Some(lifetime) = lifetime else { return quote!(#kind) };
    replace(quote!(#kind), &lifetime.ident.to_string())
}

fn replace(tokens: TokenStream, name: &str) -> TokenStream {
    use proc_macro2::{Group, Ident, TokenTree};
    let mut after_quote = false;
    tokens
        .into_iter()
        .map(|token| {
            let was_quote = std::mem::replace(
                &mut after_quote,
                matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '\''),
            );
            match token {
                TokenTree::Ident(ident) if was_quote && ident == name => {
                    TokenTree::Ident(Ident::new("static", ident.span()))
                }
                TokenTree::Group(group) => {
                    TokenTree::Group(Group::new(group.delimiter(), replace(group.stream(), name)))
                }
                other => other,
            }
        })
        .collect()
}
