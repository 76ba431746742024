//! How arguments are stored: serde's traits for the struct that holds them, written out.
//!
//! serde's derive would write them too, but with `#[allow]` attributes that a crate under
//! `#![forbid(nonstandard_style)]` refuses.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, Error, Ident, LitStr, Path, Result, Token, Type};

/// What the `#[serde(…)]` attributes of an argument say.
#[derive(Default)]
pub(crate) struct Serde {
    rename: Option<LitStr>,
    aliases: Vec<LitStr>,
    default: Option<TokenStream>,
    serialize_with: Option<TokenStream>,
    deserialize_with: Option<TokenStream>,
    skip_if: Option<Path>,
}

/// An argument: what is stored of a parameter.
pub(crate) struct Argument<'a> {
    pub(crate) name: &'a Ident,
    pub(crate) ty: &'a Type,
    pub(crate) serde: &'a Serde,
}

impl Argument<'_> {
    /// Whether its type stores itself.
    pub(crate) fn is_plain(&self) -> bool {
        self.serde.serialize_with.is_none() && self.serde.deserialize_with.is_none()
    }

    /// The names that it claims: two arguments cannot claim one.
    fn claimed_names(&self) -> Vec<String> {
        self.serde.aliases.iter().map(LitStr::value).chain([self.stored_name()]).collect()
    }

    /// The names under which it is hidden. Rows of before name what they hide themselves.
    pub(crate) fn hidden_names(&self) -> Vec<String> {
        let with_underscore = self.underscored().filter(|name| *name == bare(self.name));
        self.claimed_names().into_iter().chain(with_underscore).collect()
    }

    /// The name under which it is stored: without an underscore, which says that the code does not use it.
    pub(crate) fn stored_name(&self) -> String {
        self.serde.rename.as_ref().map_or_else(|| plain(self.name), LitStr::value)
    }

    /// The name with an underscore, under which rows of before may hold it: its underscore was stored too. It may
    /// have lost it since.
    fn underscored(&self) -> Option<String> {
        let plain = plain(self.name);
        let name = if plain.starts_with('_') { plain } else { format!("_{plain}") };
        let is_claimed = self.claimed_names().contains(&name);
        (self.serde.rename.is_none() && !is_claimed).then_some(name)
    }
}

/// A name without `r#` and without the underscore of what is not used.
pub(crate) fn plain(name: &Ident) -> String {
    let bare = bare(name);
    match bare.strip_prefix('_') {
        Some(rest) if rest.starts_with(|c: char| c.is_alphabetic()) => rest.to_owned(),
        _ => bare,
    }
}

/// A name without `r#`.
pub(crate) fn bare(name: &Ident) -> String {
    name.to_string().trim_start_matches("r#").to_owned()
}

impl Serde {
    pub(crate) fn read(&mut self, attribute: &Attribute) -> Result<()> {
        attribute.parse_nested_meta(|meta| {
            let word = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            match word.as_str() {
                "rename" => self.rename = Some(meta.value()?.parse()?),
                "alias" => self.aliases.push(meta.value()?.parse()?),
                "default" if meta.input.peek(Token![=]) => {
                    let path = path(meta.value()?.parse()?)?;
                    self.default = Some(quote_spanned!(path.span()=> #path()));
                }
                "default" => self.default = Some(quote!(::core::default::Default::default())),
                "with" => {
                    let path = path(meta.value()?.parse()?)?;
                    self.serialize_with = Some(quote!(#path::serialize));
                    self.deserialize_with = Some(quote!(#path::deserialize));
                }
                "serialize_with" => {
                    let path = path(meta.value()?.parse()?)?;
                    self.serialize_with = Some(quote!(#path));
                }
                "deserialize_with" => {
                    let path = path(meta.value()?.parse()?)?;
                    self.deserialize_with = Some(quote!(#path));
                }
                "skip_serializing_if" => self.skip_if = Some(path(meta.value()?.parse()?)?),
                _ => {
                    let text = "not for an argument; there are: default, rename, alias, with, \
                                serialize_with, deserialize_with, skip_serializing_if";
                    return Err(meta.error(text));
                }
            }
            Ok(())
        })
    }
}

fn path(text: LitStr) -> Result<Path> {
    text.parse()
}

/// Refuses two arguments that would be stored under one name.
pub(crate) fn check(arguments: &[Argument<'_>]) -> Result<()> {
    let mut names = std::collections::HashSet::new();
    for argument in arguments {
        for name in argument.claimed_names() {
            if !names.insert(name.clone()) {
                let text = format!("two arguments are stored as `{name}`");
                return Err(Error::new(argument.name.span(), text));
            }
        }
    }
    Ok(())
}

/// `Serialize` and `Deserialize` for `__Job`.
pub(crate) fn implement(arguments: &[Argument<'_>], private: &TokenStream) -> TokenStream {
    let serde = quote!(#private::serde);
    let writes = arguments.iter().map(|argument| write(argument, &serde));
    let count = arguments.len();
    let types: Vec<_> = arguments.iter().map(|argument| argument.ty).collect();
    let slots: Vec<_> = (0..count).map(|i| format_ident!("__slot{i}")).collect();
    let arms = arguments.iter().zip(&slots).map(|(argument, slot)| {
        let claimed = arguments.iter().flat_map(Argument::claimed_names);
        let claimed: std::collections::HashSet<_> = claimed.collect();
        read(argument, slot, &serde, argument.underscored().filter(|name| !claimed.contains(name)))
    });
    let ends = arguments.iter().zip(&slots).map(|(argument, slot)| {
        let Argument { name, ty, serde: attributes } = argument;
        let stored = argument.stored_name();
        let absent = match (&attributes.default, &attributes.deserialize_with) {
            (Some(default), _) => default.clone(),
            // As serde's derive: what has a function of its own is never made of nothing.
            (None, Some(_)) => quote!(return ::core::result::Result::Err(
                <__A::Error as #serde::de::Error>::missing_field(#stored)
            )),
            (None, None) => {
                quote_spanned!(ty.span()=> #private::missing::<#ty, __A::Error>(#stored)?)
            }
        };
        quote! {
            #name: match #slot {
                ::core::option::Option::Some(__value) => __value,
                ::core::option::Option::None => #absent,
            }
        }
    });
    quote! {
        impl #serde::Serialize for __Job {
            fn serialize<__S: #serde::Serializer>(
                &self,
                __serializer: __S,
            ) -> ::core::result::Result<__S::Ok, __S::Error> {
                let mut __map = #serde::Serializer::serialize_map(
                    __serializer,
                    ::core::option::Option::None,
                )?;
                let _ = &mut __map;
                #(#writes)*
                #serde::ser::SerializeMap::end(__map)
            }
        }

        impl<'de> #serde::Deserialize<'de> for __Job {
            fn deserialize<__D: #serde::Deserializer<'de>>(
                __deserializer: __D,
            ) -> ::core::result::Result<Self, __D::Error> {
                struct __Arguments;

                impl<'de> #serde::de::Visitor<'de> for __Arguments {
                    type Value = __Job;

                    fn expecting(
                        &self,
                        __formatter: &mut ::core::fmt::Formatter<'_>,
                    ) -> ::core::fmt::Result {
                        __formatter.write_str("an object of arguments")
                    }

                    fn visit_map<__A: #serde::de::MapAccess<'de>>(
                        self,
                        mut __map: __A,
                    ) -> ::core::result::Result<__Job, __A::Error> {
                        #(let mut #slots: ::core::option::Option<#types> =
                            ::core::option::Option::None;)*
                        while let ::core::option::Option::Some(__name) =
                            #serde::de::MapAccess::next_key::<::std::string::String>(&mut __map)?
                        {
                            match __name.as_str() {
                                #(#arms)*
                                _ => {
                                    #serde::de::MapAccess::next_value::<#serde::de::IgnoredAny>(
                                        &mut __map,
                                    )?;
                                }
                            }
                        }
                        ::core::result::Result::Ok(__Job { #(#ends,)* })
                    }
                }

                #serde::Deserializer::deserialize_map(__deserializer, __Arguments)
            }
        }
    }
}

fn write(argument: &Argument<'_>, serde: &TokenStream) -> TokenStream {
    let Argument { name, ty, serde: attributes } = argument;
    let stored = argument.stored_name();
    let entry = match &attributes.serialize_with {
        None => quote_spanned! {ty.span()=>
            #serde::ser::SerializeMap::serialize_entry(&mut __map, #stored, &self.#name)?;
        },
        Some(with) => quote! {{
            struct __With<'a>(&'a #ty);
            impl #serde::Serialize for __With<'_> {
                fn serialize<__S: #serde::Serializer>(
                    &self,
                    __serializer: __S,
                ) -> ::core::result::Result<__S::Ok, __S::Error> {
                    #with(self.0, __serializer)
                }
            }
            #serde::ser::SerializeMap::serialize_entry(&mut __map, #stored, &__With(&self.#name))?;
        }},
    };
    match &attributes.skip_if {
        Some(skip) => quote!(if !#skip(&self.#name) { #entry }),
        None => entry,
    }
}

fn read(
    argument: &Argument<'_>,
    slot: &Ident,
    serde: &TokenStream,
    underscored: Option<String>,
) -> TokenStream {
    let Argument { ty, serde: attributes, .. } = argument;
    let stored = argument.stored_name();
    let aliases = attributes.aliases.iter().map(LitStr::value).chain(underscored);
    let value = match &attributes.deserialize_with {
        None => quote!(#serde::de::MapAccess::next_value::<#ty>(&mut __map)?),
        Some(with) => quote! {{
            struct __With(#ty);
            impl<'de> #serde::Deserialize<'de> for __With {
                fn deserialize<__D: #serde::Deserializer<'de>>(
                    __deserializer: __D,
                ) -> ::core::result::Result<Self, __D::Error> {
                    #with(__deserializer).map(__With)
                }
            }
            #serde::de::MapAccess::next_value::<__With>(&mut __map)?.0
        }},
    };
    quote! {
        #stored #(| #aliases)* => #slot = ::core::option::Option::Some(#value),
    }
}
