using System.Reflection;

namespace OpenSora.Runtime;

/// <summary>Selects the compute backend at run time.</summary>
/// <remarks>
/// The public backends of referenced <c>OpenSora.*</c> assemblies are discovered, so a reference to the package is enough. Trimmed and single-file
/// applications do not keep assemblies that the code does not use; in these, add the backend in code (<c>AddOpenSora().AddCuda()</c>).
/// </remarks>
/// <param name="backends">The backends to choose from. If several have the same name, the last one is used.</param>
internal sealed class BackendSelector(IEnumerable<IComputeBackend> backends)
{
    /// <summary>The name that selects the best available backend.</summary>
    public const string Auto = "auto";

    private readonly IComputeBackend[] _backends =
    [
        .. backends.GroupBy(b => b.Name, StringComparer.OrdinalIgnoreCase).Select(g => g.Last()).OrderByDescending(b => b.Priority),
    ];

    /// <summary>Gets the backends of the referenced assemblies.</summary>
    internal static Lazy<IReadOnlyList<IComputeBackend>> Discovered { get; } =
        new(() =>
            [
                .. ReferencedAssemblies()
                    .SelectMany(TypesOf)
                    .Where(type => !type.IsAbstract && type.IsAssignableTo(typeof(IComputeBackend)))
                    .Select(type => type.GetConstructor(Type.EmptyTypes)?.Invoke(null))
                    .OfType<IComputeBackend>(),
            ]
        );

    /// <summary>Returns all backends and their availability, in descending order of priority.</summary>
    public IReadOnlyList<(IComputeBackend Backend, (bool IsAvailable, string Reason) Availability)> Describe() =>
        [.. _backends.Select(b => (b, b.CheckAvailability()))];

    /// <summary>Selects a backend by name, or the best available one.</summary>
    /// <param name="name">The name of a backend; null or <see cref="Auto"/> for the best available backend.</param>
    /// <exception cref="BackendUnavailableException">The backend does not exist or is not available; the message explains why.</exception>
    public IComputeBackend Select(string? name = null)
    {
        if (name is null || name.Equals(Auto, StringComparison.OrdinalIgnoreCase))
        {
            return _backends.FirstOrDefault(b => b.CheckAvailability().IsAvailable)
                ?? throw new BackendUnavailableException($"No backend is available. {Listing()}");
        }

        var backend = _backends.FirstOrDefault(b => b.Name.Equals(name, StringComparison.OrdinalIgnoreCase))
            ?? throw new BackendUnavailableException($"There is no backend '{name}'. {Listing()} Check that its package is referenced.");
        var availability = backend.CheckAvailability();
        return availability.IsAvailable
            ? backend
            : throw new BackendUnavailableException($"Backend '{backend.Name}' is not available: {availability.Reason} {Listing()}");
    }

    private string Listing() =>
        "Known backends: "
        + string.Join(
            "; ",
            Describe()
                .Select(d =>
                    $"{d.Backend.Name} ({(d.Availability.IsAvailable ? "available" : "not available")}: {d.Availability.Reason.TrimEnd('.')})"
                )
        )
        + ".";

    // An application's own OpenSora.* assembly can refer to assemblies that are not there; it has no backend that could be used.
    private static Type[] TypesOf(Assembly assembly)
    {
        try
        {
            return assembly.GetExportedTypes();
        }
        catch (Exception e) when (e is FileNotFoundException or FileLoadException or TypeLoadException or ReflectionTypeLoadException)
        {
            return [];
        }
    }

    private static IEnumerable<Assembly> ReferencedAssemblies() =>
        ((AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES") as string) ?? "")
            .Split(Path.PathSeparator)
            .Select(Path.GetFileNameWithoutExtension)
            .Where(name => name is not null && name.StartsWith("OpenSora.", StringComparison.Ordinal))
            .Select(name => Assembly.Load(new AssemblyName(name!)));
}

/// <summary>The exception that is thrown when the requested backend does not exist or is not available on this machine.</summary>
internal sealed class BackendUnavailableException : InvalidOperationException
{
    /// <summary>Initializes a new exception.</summary>
    /// <param name="message">The reason, and how to resolve it.</param>
    public BackendUnavailableException(string message)
        : base(message) { }
}
