using System.ComponentModel;
using System.Globalization;
using System.Reflection;
using System.Text.Json.Serialization;
using Microsoft.Extensions.Configuration;

namespace OpenSora.DependencyInjection;

/// <summary>Binds a configuration section to options, and collects all problems instead of stopping at the first.</summary>
/// <remarks>This file is compiled into OpenSora.Training and OpenSora.Preparation too.</remarks>
internal static class OptionsBinder
{
    /// <summary>Sets the options that a section contains.</summary>
    /// <param name="section">The section.</param>
    /// <param name="options">Receives the valid values.</param>
    /// <param name="problems">Receives a sentence for each problem.</param>
    /// <param name="except">The names of subsections that belong to other libraries.</param>
    /// <param name="names">The names to show for an enumeration of which only some values are allowed; null for all.</param>
    public static void Bind(
        IConfiguration section,
        object options,
        List<string> problems,
        IReadOnlyList<string>? except = null,
        Func<Type, IEnumerable<string>?>? names = null
    )
    {
        except ??= [];
        HashSet<string> wrong = new(except, StringComparer.OrdinalIgnoreCase);

        Check(section, options.GetType(), "");
        new ConfigurationBuilder()
            .AddInMemoryCollection(
                section
                    .AsEnumerable(makePathsRelative: true)
                    .Where(entry => !wrong.Any(path => entry.Key.Equals(path, StringComparison.OrdinalIgnoreCase) || IsUnder(path, entry.Key)))
            )
            .Build()
            .Bind(options);

        // Compares the keys and values of a section with the properties of a type.
        void Check(IConfiguration part, Type type, string path)
        {
            var properties = type.GetProperties(BindingFlags.Instance | BindingFlags.Public)
                .Where(property => !property.IsDefined(typeof(JsonIgnoreAttribute)))
                .ToDictionary(property => property.Name, property => property.PropertyType, StringComparer.OrdinalIgnoreCase);
            foreach (var entry in part.GetChildren())
            {
                var own = path.Length == 0 ? entry.Key : ConfigurationPath.Combine(path, entry.Key);
                if (except.Contains(own, StringComparer.OrdinalIgnoreCase))
                {
                    continue;
                }

                if (!properties.TryGetValue(entry.Key, out var property))
                {
                    wrong.Add(own);
                    problems.Add(
                        $"{entry.Path} is not an option. The options are {string.Join(", ", properties.Keys.Order(StringComparer.Ordinal))}."
                    );
                }
                else if (property.IsGenericType && property.GetGenericTypeDefinition() == typeof(IList<>))
                {
                    foreach (var item in entry.GetChildren())
                    {
                        CheckValue(item, property.GetGenericArguments()[0], ConfigurationPath.Combine(own, item.Key));
                    }
                }
                else
                {
                    CheckValue(entry, property, own);
                }
            }
        }

        void CheckValue(IConfigurationSection entry, Type declared, string path)
        {
            var type = Nullable.GetUnderlyingType(declared) ?? declared;
            if (type.IsClass && type != typeof(string))
            {
                Check(entry, type, path);
            }
            else if (entry.Value is null)
            {
                if (entry.GetChildren().Any())
                {
                    wrong.Add(path);
                    problems.Add($"{entry.Path} is a section; it must be a single value.");
                }
            }
            else if (Expected(entry.Value, type, type != declared, names?.Invoke(type)) is { } expected)
            {
                wrong.Add(path);
                problems.Add($"{entry.Path} is '{entry.Value}'; it must be {expected}.");
            }
        }
    }

    private static bool IsUnder(string path, string key) => key.StartsWith(path + ConfigurationPath.KeyDelimiter, StringComparison.OrdinalIgnoreCase);

    // Returns what is expected if the text cannot be converted. An empty text means null, as in environment variables.
    private static string? Expected(string text, Type type, bool isNullable, IEnumerable<string>? names)
    {
        if (type == typeof(string) || (text.Length == 0 && isNullable))
        {
            return null;
        }

        if (type.IsEnum)
        {
            return Enum.TryParse(type, text, ignoreCase: true, out var value) && Enum.IsDefined(type, value)
                ? null
                : $"one of {string.Join(", ", names ?? Enum.GetNames(type))}";
        }

        try
        {
            TypeDescriptor.GetConverter(type).ConvertFromString(null, CultureInfo.InvariantCulture, text);
            return null;
        }
        catch (Exception e) when (e is FormatException or ArgumentException or NotSupportedException)
        {
            return type == typeof(bool) ? "true or false"
                : type == typeof(double) ? "a number"
                : type == typeof(TimeSpan) ? "a time such as 01:30:00"
                : "a whole number";
        }
    }
}
