//! What `#[job]` leaves: one function of the stored arguments that returns a job value. Everything else
//! lives inside its body, so that only the function's own name enters the scope.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, FnArg, Ident, ItemFn, LitStr, Pat, PatIdent, PatType, Result, ReturnType,
    Type,
};

use crate::options::{self, Options};

/// A parameter: an argument that is stored, or something the server gives.
struct Parameter {
    name: Ident,
    mutable: bool,
    ty: Type,
    attributes: Vec<Attribute>,
    injected: bool,
}

pub(crate) fn expand(options: TokenStream, function: TokenStream) -> Result<TokenStream> {
    let options: Options = syn::parse2(options)?;
    let function: ItemFn = syn::parse2(function)?;
    check_signature(&function, &options)?;
    let parameters = function.sig.inputs.iter().map(parameter).collect::<Result<Vec<_>>>()?;
    Ok(generate(&options, &function, &parameters))
}

fn check_signature(function: &ItemFn, options: &Options) -> Result<()> {
    let signature = &function.sig;
    let refuse = |span, text| Err(Error::new(span, text));
    if let Some(parameter) = signature.generics.params.first() {
        return refuse(parameter.span(), "a job cannot be generic: stored data never chooses code");
    }
    if options.blocking {
        if let Some(token) = &signature.asyncness {
            return refuse(
                token.span(),
                "a blocking job is not async; drop `async`, or `blocking`",
            );
        }
    } else if signature.asyncness.is_none() {
        let text = "a job is async; write `async fn`, or `#[job(blocking)]` for code that blocks its thread";
        return refuse(signature.fn_token.span(), text);
    }
    if let Some(token) = &signature.constness {
        return refuse(token.span(), "a job cannot be const");
    }
    if let Some(token) = &signature.unsafety {
        return refuse(token.span(), "a job cannot be unsafe");
    }
    if options.name.is_none() {
        let name = LitStr::new(&bare(&signature.ident), signature.ident.span());
        options::name(&name)?;
    }
    Ok(())
}

fn bare(name: &Ident) -> String {
    name.to_string().trim_start_matches("r#").to_owned()
}

fn parameter(argument: &FnArg) -> Result<Parameter> {
    let PatType { attrs, pat, ty, .. } = match argument {
        FnArg::Typed(parameter) => parameter,
        FnArg::Receiver(receiver) => {
            let text =
                "a job has no `self`: only its arguments are stored; ask for `Data<T>` instead";
            return Err(Error::new(receiver.span(), text));
        }
    };
    let Pat::Ident(PatIdent { ident, mutability, by_ref: None, subpat: None, .. }) = &**pat else {
        let text = "a job's parameter needs a plain name, under which it is stored";
        return Err(Error::new(pat.span(), text));
    };
    if let Type::Reference(reference) = &**ty {
        let text = "a job's arguments are stored, so they are owned: take `String` instead of `&str`, `Vec<T>` instead of `&[T]`";
        return Err(Error::new(reference.span(), text));
    }
    if let Type::ImplTrait(ty) = &**ty {
        return Err(Error::new(
            ty.span(),
            "a job cannot be generic: stored data never chooses code",
        ));
    }
    let marked = attrs.iter().any(|attribute| attribute.path().is_ident("inject"));
    let attributes = attrs.iter().filter(|a| !a.path().is_ident("inject")).cloned().collect();
    Ok(Parameter {
        name: ident.clone(),
        mutable: mutability.is_some(),
        ty: (**ty).clone(),
        attributes,
        injected: marked || is_injected(ty),
    })
}

/// By the last segment of its path, since a macro sees no types.
fn is_injected(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    path.path.segments.last().is_some_and(|last| last.ident == "Data" || last.ident == "JobContext")
}

fn generate(options: &Options, function: &ItemFn, parameters: &[Parameter]) -> TokenStream {
    let krate = match &options.krate {
        Some(path) => quote!(#path),
        None => quote!(::jobkit),
    };
    let private = quote!(#krate::__private);
    let (outer, inner): (Vec<_>, Vec<_>) =
        function.attrs.iter().partition(|attribute| stays_outside(attribute));
    let visibility = &function.vis;
    let name = &function.sig.ident;
    let block = &function.block;
    let output = match &function.sig.output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, ty) => quote!(#ty),
    };
    let kind = match &options.name {
        Some(name) => quote!(#name),
        None => {
            let text = bare(name);
            quote!(#text)
        }
    };
    let stored: Vec<_> = parameters.iter().filter(|parameter| !parameter.injected).collect();
    let stored_names: Vec<_> = stored.iter().map(|parameter| &parameter.name).collect();
    let stored_types: Vec<_> = stored.iter().map(|parameter| &parameter.ty).collect();
    let stored_attributes = stored.iter().map(|parameter| {
        let attributes = &parameter.attributes;
        quote!(#(#attributes)*)
    });
    let checks = stored.iter().map(|parameter| {
        let ty = &parameter.ty;
        quote_spanned!(ty.span()=> #private::assert_argument::<#ty>();)
    });
    let call_parameters = parameters.iter().map(|parameter| {
        let Parameter { name, ty, mutable, .. } = parameter;
        let mutable = mutable.then(|| quote!(mut));
        quote!(#mutable #name: #ty)
    });
    let call_arguments: Vec<_> = parameters
        .iter()
        .map(|parameter| {
            let name = &parameter.name;
            if parameter.injected { injected_name(name) } else { quote!(self.#name) }
        })
        .collect();
    let injected: Vec<_> = parameters.iter().filter(|parameter| parameter.injected).collect();
    let injections = injected.iter().map(|parameter| {
        let ty = &parameter.ty;
        let name = injected_name(&parameter.name);
        quote!(let #name = <#ty as #private::FromContext>::from_context(&__context).await?;)
    });
    let requirements = injected.iter().map(|parameter| {
        let ty = &parameter.ty;
        quote!(<#ty as #private::FromContext>::require(__requirements);)
    });
    let asyncness = &function.sig.asyncness;
    let call = if options.blocking {
        quote!(#private::run_blocking(move || __Job::call(#(#call_arguments),*)).await)
    } else {
        quote!(__Job::call(#(#call_arguments),*).await)
    };
    let job_options = job_options(options, &private);
    let unique = unique(options, &private, &stored_names);
    let limits = limits(options, &private, &stored_names);
    let aliases = &options.aliases;
    let serde_path = quote!(#private::serde).to_string().replace(' ', "");
    let outcome = quote!(<#output as #private::Outcome>);
    quote! {
        #(#outer)*
        #[must_use = "a job does nothing until it is enqueued"]
        #visibility fn #name(#(#stored_names: #stored_types),*)
            -> #private::NewJob<impl #private::Run<Output = #outcome::Ok>>
        {
            #[derive(#private::serde::Serialize, #private::serde::Deserialize)]
            #[serde(crate = #serde_path)]
            struct __Job {
                #(#stored_attributes #stored_names: #stored_types,)*
            }

            impl __Job {
                #(#inner)*
                // That a job is async is not its author's choice.
                #[allow(clippy::unused_async)]
                #asyncness fn call(#(#call_parameters),*) -> #output #block
            }

            const _: fn() = || { #(#checks)* };

            impl #private::Job for __Job {
                const KIND: &'static str = #kind;
                const ALIASES: &'static [&'static str] = &[#(#aliases),*];
                type Output = #outcome::Ok;

                fn options() -> #private::JobOptions {
                    #job_options
                }

                #unique
                #limits
            }

            impl #private::Run for __Job {
                type Error = #private::Failure;

                fn requires(__requirements: &mut #private::Requirements) {
                    let _ = &__requirements;
                    #(#requirements)*
                }

                async fn run(
                    self,
                    __context: #private::JobContext,
                ) -> ::core::result::Result<Self::Output, #private::Failure> {
                    let _ = &__context;
                    #(#injections)*
                    let __outcome = #call;
                    #private::Outcome::into_result(__outcome)
                        .map_err(<#private::Failure as ::core::convert::From<#outcome::Err>>::from)
                }
            }

            #private::NewJob::new(__Job { #(#stored_names),* })
        }
    }
}

/// Documentation, conditions and lints belong to the function people see; the rest, such as
/// `#[tracing::instrument]`, to the code that runs.
fn stays_outside(attribute: &Attribute) -> bool {
    const OUTSIDE: [&str; 9] =
        ["doc", "cfg", "cfg_attr", "deprecated", "allow", "expect", "warn", "deny", "forbid"];
    OUTSIDE.iter().any(|name| attribute.path().is_ident(name))
}

fn injected_name(name: &Ident) -> TokenStream {
    let name = format_ident!("__injected_{}", bare(name));
    quote!(#name)
}

fn job_options(options: &Options, private: &TokenStream) -> TokenStream {
    let mut tokens = quote!(#private::JobOptions::new());
    if let Some(queue) = &options.queue {
        tokens = quote!(#tokens.queue(#queue));
    }
    if let Some(priority) = &options.priority {
        tokens = quote!(#tokens.priority(#priority));
    }
    if let Some(attempts) = &options.max_attempts {
        tokens = quote!(#tokens.max_attempts(#attempts));
    }
    if let Some(timeout) = options.timeout {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        tokens = quote!(#tokens.timeout(::core::time::Duration::from_millis(#millis)));
    }
    tokens
}

fn unique(options: &Options, private: &TokenStream, stored: &[&Ident]) -> TokenStream {
    let Some(key) = &options.unique else { return TokenStream::new() };
    let bindings = bindings(key, stored);
    let until = options.until.clone().unwrap_or_else(|| format_ident!("Finished"));
    let on_conflict =
        options.on_conflict.clone().unwrap_or_else(|| format_ident!("ReturnExisting"));
    quote! {
        fn unique(&self) -> ::core::option::Option<#private::Unique> {
            #bindings
            ::core::option::Option::Some(#private::Unique {
                key: ::std::format!(#key),
                until: #private::Until::#until,
                on_conflict: #private::OnConflict::#on_conflict,
            })
        }
    }
}

fn limits(options: &Options, private: &TokenStream, stored: &[&Ident]) -> TokenStream {
    if options.limits.is_empty() {
        return TokenStream::new();
    }
    let limits = options.limits.iter().map(|(name, max)| {
        let bindings = bindings(name, stored);
        quote!({
            #bindings
            #private::Limit::new(::std::format!(#name), #max)
        })
    });
    quote! {
        fn limits(&self) -> ::std::vec::Vec<#private::Limit> {
            ::std::vec![#(#limits),*]
        }
    }
}

/// Brings the arguments that a text names into scope, and no others, so that none is unused; a name that
/// is not an argument is underlined in the text by the compiler itself.
fn bindings(text: &LitStr, stored: &[&Ident]) -> TokenStream {
    let text = text.value();
    let named = stored.iter().filter(|argument| {
        let argument = bare(argument);
        text.split('{').skip(1).any(|rest| {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            rest[..end] == argument
        })
    });
    quote!(#(let #named = &self.#named;)*)
}
