"use strict";

const target = document.getElementById("swagger-ui");
SwaggerUIBundle({
  url: target.dataset.schemaUrl,
  domNode: target,
  deepLinking: true,
  persistAuthorization: true,
  displayRequestDuration: true,
});
