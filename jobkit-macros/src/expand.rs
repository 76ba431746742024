//! What `#[job]` leaves: one function of the stored arguments that returns a job value. Everything else
//! lives inside its body, so that only the function's own name enters the scope.

use std::time::Duration;

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, FnArg, Ident, ItemFn, LitStr, Pat, PatIdent, PatType, Result, ReturnType,
    Type,
};

use crate::arguments::{self, Argument, Serde, bare, plain};
use crate::options::{self, Keep, Options, Until};

/// A parameter: an argument that is stored, or something the server gives.
struct Parameter {
    name: Ident,
    mutable: bool,
    ty: Type,
    /// Lints and the like, for the code that runs.
    attributes: Vec<Attribute>,
    serde: Serde,
    injected: bool,
    sensitive: bool,
}

pub(crate) fn expand(options: TokenStream, function: TokenStream) -> Result<TokenStream> {
    let options: Options = syn::parse2(options)?;
    let function: ItemFn = syn::parse2(function)?;
    check_signature(&function, &options)?;
    let mut parameters = function.sig.inputs.iter().map(parameter).collect::<Result<Vec<_>>>()?;
    for named in &options.sensitive {
        match parameters.iter_mut().find(|one| one.name == *named && !one.injected) {
            Some(parameter) => parameter.sensitive = true,
            None => return Err(Error::new(named.span(), "is not an argument of this job")),
        }
    }
    check_texts(&options, &parameters)?;
    arguments::check(&stored(&parameters))?;
    Ok(generate(&options, &function, &parameters))
}

fn stored(parameters: &[Parameter]) -> Vec<Argument<'_>> {
    let stored = parameters.iter().filter(|parameter| !parameter.injected);
    stored.map(|Parameter { name, ty, serde, .. }| Argument { name, ty, serde }).collect()
}

/// The texts that may be made of arguments.
fn templates(options: &Options) -> impl Iterator<Item = &LitStr> {
    let limits = options.limits.iter().map(|(name, ..)| name);
    options.unique.iter().chain(&options.display_name).chain(&options.tags).chain(limits)
}

/// Texts made of arguments are shown to people, so sensitive arguments are not for them.
fn check_texts(options: &Options, parameters: &[Parameter]) -> Result<()> {
    for text in templates(options) {
        let value = text.value();
        let named = |parameter: &&Parameter| parameter.sensitive && names(&value, &parameter.name);
        if let Some(parameter) = parameters.iter().find(named) {
            let reason = format!("`{}` is sensitive, and this text is shown", parameter.name);
            return Err(Error::new(text.span(), reason));
        }
    }
    Ok(())
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
        options::kind(&name)?;
    }
    Ok(())
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
    let mut parameter = Parameter {
        name: ident.clone(),
        mutable: mutability.is_some(),
        ty: (**ty).clone(),
        attributes: Vec::new(),
        serde: Serde::default(),
        injected: is_injected(ty),
        sensitive: false,
    };
    for attribute in attrs {
        let path = attribute.path();
        if path.is_ident("inject") {
            parameter.injected = true;
        } else if path.is_ident("sensitive") {
            parameter.sensitive = true;
        } else if path.is_ident("serde") {
            parameter.serde.read(attribute)?;
        } else if path.is_ident("cfg") || path.is_ident("cfg_attr") {
            let text = "an argument is stored, so it cannot come and go with the build";
            return Err(Error::new(attribute.span(), text));
        } else if !path.is_ident("doc") {
            parameter.attributes.push(attribute.clone());
        }
    }
    // Taken for an argument, it would be refused four times over, with the traits of serde.
    if !parameter.injected && is_output_of_parents(ty) {
        let text = "the output of a parent is given by the server, and not stored: write `#[inject]` before it";
        return Err(Error::new(ident.span(), text));
    }
    if parameter.injected && parameter.sensitive {
        return Err(Error::new(ident.span(), "is given by the server, and not stored"));
    }
    Ok(parameter)
}

/// By the last segment of its path, since a macro sees no types.
fn is_injected(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    path.path.segments.last().is_some_and(|last| last.ident == "Data" || last.ident == "JobContext")
}

fn is_output_of_parents(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    path.path
        .segments
        .last()
        .is_some_and(|it| it.ident == "FromParent" || it.ident == "FromParents")
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
    let statements = &function.block.stmts;
    // What a text is made of is used, so that the compiler proposes no underscore.
    let is_used = |one: &&Parameter| {
        let silent = one.injected || bare(&one.name).starts_with('_');
        !silent && templates(options).any(|text| names(&text.value(), &one.name))
    };
    let used = parameters.iter().filter(is_used).map(|parameter| &parameter.name);
    let used = quote!(#(let _ = &#used;)*);
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
    let stored = stored(parameters);
    let stored_names: Vec<_> = stored.iter().map(|argument| argument.name).collect();
    let stored_types: Vec<_> = stored.iter().map(|argument| argument.ty).collect();
    let checks = stored.iter().filter(|argument| argument.is_plain()).map(|argument| {
        let ty = argument.ty;
        quote_spanned!(ty.span()=> #private::assert_argument::<#ty>();)
    });
    let call_parameters = parameters.iter().map(|parameter| {
        let Parameter { name, ty, mutable, attributes, .. } = parameter;
        let mutable = mutable.then(|| quote!(mut));
        quote!(#(#attributes)* #mutable #name: #ty)
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
        quote!(#private::run_blocking(move || __call(#(#call_arguments),*)).await)
    } else {
        quote!(__call(#(#call_arguments),*).await)
    };
    let serde = arguments::implement(&stored, &private);
    let job_options = job_options(options, &private);
    let upgrades = upgrades(options, &private, &stored_names, &stored_types);
    let unique = unique(options, &private, &stored_names);
    let limits = limits(options, &private, &stored_names);
    let texts = texts(options, &stored_names);
    let aliases = &options.aliases;
    let version = options.version.iter();
    let sensitive = sensitive(parameters);
    let outcome = quote!(<#output as #private::IntoJobResult>);
    let classified = options.classify.as_ref().map(|path| {
        let retry = quote_spanned!(path.span()=> #path(&__error));
        quote!(let __retry: #private::Retry = #retry;)
    });
    let apply = options.classify.is_some().then(|| quote!(.classified(__retry)));
    // That a job is async is not its author's choice.
    let unused_async = (asyncness.is_some() && !awaits(function.block.to_token_stream()))
        .then(|| quote!(#[allow(clippy::unused_async)]));
    quote! {
        #(#outer)*
        #[must_use = "a job does nothing until it is enqueued"]
        #visibility fn #name(#(#stored_names: #stored_types),*)
            -> #private::NewJob<impl #private::Run<Output = #outcome::Ok>>
        {
            // First, so that its errors are.
            const _: fn() = || { #(#checks)* };

            struct __Job {
                #(#stored_names: #stored_types,)*
            }

            #(#inner)*
            #unused_async
            #asyncness fn __call(#(#call_parameters),*) -> #output {
                #used
                #(#statements)*
            }

            #serde

            impl #private::Job for __Job {
                const KIND: &'static str = #kind;
                const ALIASES: &'static [&'static str] = &[#(#aliases),*];
                #(const VERSION: u32 = #version;)*
                #sensitive
                type Output = #outcome::Ok;

                #upgrades

                fn options() -> #private::JobOptions {
                    #job_options
                }

                #texts
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
                    #private::IntoJobResult::into_result(__outcome).map_err(|__error| {
                        #classified
                        <#private::Failure as ::core::convert::From<#outcome::Err>>::from(__error)
                            #apply
                    })
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
        let timeout = length_of(timeout);
        tokens = quote!(#tokens.timeout(#timeout));
    }
    if let Some(retry) = &options.retry {
        tokens = quote!(#tokens.retry(#retry));
    }
    match &options.retention {
        Some(Keep::For(length)) => {
            let length = length_of(*length);
            tokens =
                quote!(#tokens.retention(#private::Retention::all(#private::Keep::For(#length))));
        }
        Some(Keep::Forever) => {
            tokens = quote!(#tokens.retention(#private::Retention::all(#private::Keep::Forever)));
        }
        Some(Keep::Computed(retention)) => tokens = quote!(#tokens.retention(#retention)),
        None => {}
    }
    tokens
}

fn length_of(length: Duration) -> TokenStream {
    let millis = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    quote!(::core::time::Duration::from_millis(#millis))
}

fn sensitive(parameters: &[Parameter]) -> TokenStream {
    let sensitive = parameters.iter().filter(|parameter| parameter.sensitive);
    let names: Vec<_> = sensitive
        .flat_map(|Parameter { name, ty, serde, .. }| Argument { name, ty, serde }.hidden_names())
        .collect();
    if names.is_empty() {
        return TokenStream::new();
    }
    quote!(const SENSITIVE: &'static [&'static str] = &[#(#names),*];)
}

fn upgrades(
    options: &Options,
    private: &TokenStream,
    names: &[&Ident],
    types: &[&Type],
) -> TokenStream {
    if options.upgrades.is_empty() {
        return TokenStream::new();
    }
    let steps = options.upgrades.iter().map(|(version, path)| {
        let upgraded = quote_spanned! {path.span()=>
            #private::Upgraded::<(#(#types,)*)>::upgraded(#path(__old))
        };
        quote! {
            .version(#version, |__old| {
                let (#(#names,)*) = #upgraded?;
                ::core::result::Result::<Self, #private::Failure>::Ok(Self { #(#names),* })
            })
        }
    });
    quote! {
        fn upgrades() -> #private::Upgrades<Self> {
            #private::Upgrades::new()#(#steps)*
        }
    }
}

fn texts(options: &Options, stored: &[&Ident]) -> TokenStream {
    let display_name = options.display_name.as_ref().map(|text| {
        let bindings = bindings(text, stored);
        quote! {
            fn display_name(&self) -> ::core::option::Option<::std::string::String> {
                #bindings
                ::core::option::Option::Some(::std::format!(#text))
            }
        }
    });
    let tags = options.tags.iter().map(|text| {
        let bindings = bindings(text, stored);
        quote!({
            #bindings
            ::std::format!(#text)
        })
    });
    let tags = (!options.tags.is_empty()).then(|| {
        quote! {
            fn tags(&self) -> ::std::vec::Vec<::std::string::String> {
                ::std::vec![#(#tags),*]
            }
        }
    });
    quote!(#display_name #tags)
}

/// Whether the code awaits anything, as far as its words tell.
fn awaits(code: TokenStream) -> bool {
    code.into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == "await",
        TokenTree::Group(group) => awaits(group.stream()),
        _ => false,
    })
}

fn unique(options: &Options, private: &TokenStream, stored: &[&Ident]) -> TokenStream {
    let Some(key) = &options.unique else { return TokenStream::new() };
    let bindings = bindings(key, stored);
    let until = match &options.until {
        Some(Until::Word(word)) => quote!(#private::Until::#word),
        Some(Until::Period(length)) => {
            let length = length_of(*length);
            quote!(#private::Until::Period(#length))
        }
        None => quote!(#private::Until::Finished),
    };
    let on_conflict =
        options.on_conflict.clone().unwrap_or_else(|| format_ident!("ReturnExisting"));
    quote! {
        fn unique(&self) -> ::core::option::Option<#private::Unique> {
            #bindings
            ::core::option::Option::Some(#private::Unique {
                key: ::std::format!(#key),
                until: #until,
                on_conflict: #private::OnConflict::#on_conflict,
            })
        }
    }
}

fn limits(options: &Options, private: &TokenStream, stored: &[&Ident]) -> TokenStream {
    if options.limits.is_empty() {
        return TokenStream::new();
    }
    let limits = options.limits.iter().map(|(name, max, window)| {
        let bindings = bindings(name, stored);
        let window = window.map(|window| {
            let window = length_of(window);
            quote! {
                __limit.window =
                    ::core::option::Option::Some(#private::Window::Sliding(#window));
            }
        });
        let mutable = window.is_some().then(|| quote!(mut));
        quote!({
            #bindings
            let #mutable __limit = #private::Limit::new(::std::format!(#name), #max);
            #window
            __limit
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
    let named = stored.iter().filter_map(|argument| {
        let plain = plain(argument);
        let name = match says(&text, &bare(argument)) {
            true => (*argument).clone(),
            // By its stored name; another argument cannot have that.
            false if says(&text, &plain) => Ident::new(&plain, argument.span()),
            false => return None,
        };
        Some(quote!(let #name = &self.#argument;))
    });
    quote!(#(#named)*)
}

/// Whether a format string names an argument.
fn names(text: &str, argument: &Ident) -> bool {
    says(text, &bare(argument)) || says(text, &plain(argument))
}

/// Whether a format string has a name in braces.
fn says(text: &str, argument: &str) -> bool {
    text.split('{').skip(1).any(|rest| {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        rest[..end] == *argument
    })
}
